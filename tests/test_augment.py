"""Augmentations against torchvision's functions; what the random ones draw."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import augment

N = 6


def photos(height=37, width=52, n=N, seed=0, low=0.0, high=1.0):
    """Noise, patches of one colour and gray ones: every branch of a colour formula."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(low, high, (n, height, width, 3))
    images[:, :5, :7] = rng.uniform(low, high, (n, 1, 1, 3))
    images[:, 5:9, :9] = rng.uniform(low, high, (n, 1, 1, 1))
    images[:, 9:11, :3], images[:, 11:13, :3] = low, high
    return images


@pytest.fixture(scope="module")
def F():
    """torchvision's functional transforms for NHWC arrays, one sample at a time."""
    torch = pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.transforms.v2 import functional

    def per_sample(name):
        def call(images, *parameters, **options):
            results = []
            for image, *arguments in zip(images, *parameters, strict=True):
                arguments = [np.asarray(a).tolist() for a in arguments]
                tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                result = getattr(functional, name)(tensor, *arguments, **options)
                results.append(result.permute(1, 2, 0).numpy())
            return np.stack(results)

        return call

    class Functional:
        def __getattr__(self, name):
            return per_sample(name)

    return Functional()


def ours(name, *arrays, **options):
    """One of our functions, compiled."""
    return jax.jit(partial(getattr(augment, name), **options))(*arrays)


def close(ours, theirs, atol):
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.torch
@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flips_equal_torchvisions(F, float64, direction):
    images, flip = photos(), np.arange(N) % 2 == 1
    result = ours(f"{direction}_flip", images, flip)
    theirs = getattr(F, f"{direction}_flip")(images)
    np.testing.assert_array_equal(result[1::2], theirs[1::2])
    np.testing.assert_array_equal(result[::2], images[::2])


ANGLES = np.array([0.0, 14.3, -97.1, 180.0, 90.0, 333.3])


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(37, 52), (41, 41), (64, 64)])
def test_rotate_equals_torchvisions(F, float64, shape, interpolation):
    images = photos(*shape)
    # A quarter turn of sides of unlike parity reads between the pixels: rounding noise.
    angles = np.where((ANGLES == 90) & (sum(shape) % 2 == 1), 89.0, ANGLES)
    result = ours("rotate", images, angles, interpolation=interpolation)
    theirs = F.rotate(images, angles, interpolation=mode(interpolation))
    close(result, theirs, 0 if interpolation == "nearest" else 1e-12)


def mode(name):
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(name)


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(37, 52), (45, 31)])
def test_affine_equals_torchvisions(F, float64, shape, interpolation):
    images = photos(*shape)
    translate = np.array([[0, 0], [3, -5], [-11, 2], [0, 7], [1, 1], [60, 0]], float)
    scale = np.array([1.0, 0.73, 1.31, 2.1, 0.4, 1.0])
    shear = np.array([[0, 0], [12, 0], [0, -9], [7, 5], [-20, 14], [0, 0]], float)
    parameters = (images, ANGLES + 0.1, translate, scale, shear)
    result = ours("affine", *parameters, interpolation=interpolation)
    theirs = F.affine(*parameters, interpolation=mode(interpolation))
    close(result, theirs, 0 if interpolation == "nearest" else 1e-12)


def test_float32_rotation_reads_the_pixels_of_float64():
    images = photos(224, 224, n=2)
    angles = np.array([-11.7, 7.77])
    with jax.enable_x64(True):
        exact = np.asarray(ours("rotate", images, angles), np.float32)
    result = ours("rotate", images.astype(np.float32), angles.astype(np.float32))
    # Only coordinates within rounding of a half may fall on the other side.
    assert np.mean(np.any(result != exact, axis=3)) < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize(
    "name, factors, atol",
    [
        ("brightness", [0.0, 0.3, 1.0, 1.4, 2.5, 0.99], 0),
        ("contrast", [0.0, 0.3, 1.0, 1.4, 2.5, 0.99], 1e-14),
        ("saturation", [0.0, 0.3, 1.0, 1.4, 2.5, 0.99], 1e-15),
        # torchvision turns the hue in float32, whatever it is given.
        ("hue", [-0.5, -0.17, 0.0, 0.03, 0.31, 0.5], 2e-6),
    ],
)
def test_colour_adjustments_equal_torchvisions(F, float64, name, factors, atol):
    images = photos() if name == "hue" else photos(low=-0.2, high=1.2)
    result = ours(f"adjust_{name}", images, np.array(factors))
    close(result, getattr(F, f"adjust_{name}")(images, factors), atol)


@pytest.mark.torch
@pytest.mark.parametrize("with_hue", [False, True])
def test_color_jitter_equals_torchvisions_in_every_order(F, float64, with_hue):
    orders = np.array(list(itertools.permutations(range(4))))
    images = photos(19, 23, n=len(orders))
    rng = np.random.default_rng(1)
    factors = rng.uniform(0.3, 1.9, (4, len(orders)))
    factors[3] = rng.uniform(-0.5, 0.5, len(orders))
    theirs = images
    names = ("brightness", "contrast", "saturation", "hue")
    for slot in orders.T:
        choices = [
            getattr(F, f"adjust_{name}")(theirs, factor)
            if with_hue or name != "hue"
            else theirs
            for name, factor in zip(names, factors, strict=True)
        ]
        theirs = np.stack(choices)[slot, np.arange(len(orders))]
    hue = factors[3] if with_hue else None
    result = ours("color_jitter", images, *factors[:3], hue, orders)
    close(result, theirs, 5e-6 if with_hue else 1e-14)


@pytest.mark.torch
def test_crops_equal_torchvisions(F, float64):
    images = photos()
    top, left = np.array([0, 1, 2, 3, 8, 9]), np.array([24, 20, 9, 1, 0, 7])
    square = np.full(N, 28)
    result = ours("crop", images, top, left, size=28)
    np.testing.assert_array_equal(result, F.crop(images, top, left, square, square))
    padded = F.pad(images, np.full(N, 4))
    result = ours("crop", images, top, left, size=28, padding=4)
    np.testing.assert_array_equal(result, F.crop(padded, top, left, square, square))
    for size in (28, 31):
        result = ours("center_crop", images, size=size)
        theirs = F.center_crop(images, np.full(N, size))
        np.testing.assert_array_equal(result, theirs)


@pytest.mark.torch
@pytest.mark.parametrize("size", [16, 37, 61])
def test_resized_crop_equals_torchvisions(F, float64, size):
    images = photos()
    top, left = np.array([0, 5, 11, 0, 36, 20]), np.array([0, 9, 3, 20, 51, 0])
    height, width = np.array([37, 21, 16, 30, 1, 17]), np.array([52, 16, 40, 9, 1, 52])
    boxes = (images, top, left, height, width)
    result = ours("resized_crop", *boxes, size=size)
    theirs = F.resized_crop(*boxes, np.full((N, 2), size), antialias=True)
    close(result, theirs, 1e-13)


# Random versions: what they drew is read off images made for it.

MANY = 2000


def key(seed=0):
    return jax.random.key(seed)


def gray(n=MANY, value=0.5, shape=(1, 1)):
    return jnp.full((n, *shape, 3), value)


def ramp(n, height, width):
    """Images whose channels are the row, the column and one."""
    image = jnp.stack(
        [
            *jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"),
            jnp.ones((height, width), jnp.int32),
        ],
        axis=-1,
    ).astype(jnp.float32)
    return jnp.broadcast_to(image, (n, height, width, 3))


def assert_uniform(values, low, high):
    """Kolmogorov-Smirnov at one in a thousand, and the range."""
    values = np.sort(np.asarray(values, float).ravel())
    assert values[0] >= low - 1e-5 and values[-1] <= high + 1e-5
    steps = np.arange(len(values)) / len(values)
    distance = np.abs((values - low) / (high - low) - steps).max()
    assert distance < 1.95 / np.sqrt(len(values)) + 1 / len(values)


def assert_uncorrelated(a, b):
    assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 4 / np.sqrt(np.size(a))


@pytest.mark.parametrize("direction, axis", [("horizontal", 1), ("vertical", 0)])
def test_random_flips_flip_a_fraction_p(direction, axis):
    images = ramp(MANY, 3, 3)
    flip = getattr(augment, f"random_{direction}_flip")
    for p in (0.0, 0.3, 1.0):
        first = np.asarray(flip(key(), images, p=p))[:, 0, 0, axis]
        assert set(first) <= {0.0, 2.0}
        assert abs((first == 2).mean() - p) <= 4 * np.sqrt(p * (1 - p) / MANY)


def test_random_crop_corners_are_uniform_in_the_padded_image():
    crops = augment.random_crop(key(), ramp(MANY, 9, 7) + 1, size=5, padding=1)
    # The centre pixel of a crop is always inside the image.
    top, left = np.asarray(crops)[:, 2, 2, :2].T - 2
    for corner, places in ((top, 7), (left, 5)):
        counts = np.bincount(corner.astype(int), minlength=places)
        assert len(counts) == places
        expected = MANY / places
        assert ((counts - expected) ** 2 / expected).sum() < 22.5  # chi2(6), 0.001
    assert_uncorrelated(top, left)
    whole = augment.random_crop(key(), ramp(2, 5, 5), size=5)
    np.testing.assert_array_equal(whole, ramp(2, 5, 5))


def test_random_rotation_angles_are_uniform():
    images = ramp(500, 21, 21) - 10
    for degrees, low, high in ((15, -15, 15), ((20, 60), 20, 60)):
        turned = augment.random_rotation(
            key(), images, degrees=degrees, interpolation="bilinear"
        )
        # At the centre the ramps are linear: their slope along x is the angle.
        slope = np.asarray(turned)[:, 10, 11, :2] - np.asarray(turned)[:, 10, 9, :2]
        assert_uniform(np.degrees(np.arctan2(slope[:, 0], slope[:, 1])), low, high)


def test_random_affine_parameters_have_torchvisions_ranges():
    images = ramp(500, 41, 21) - jnp.array([20, 10, 0]).reshape(1, 1, 1, 3)

    def matrices(**options):
        out = np.asarray(
            augment.random_affine(key(), images, interpolation="bilinear", **options)
        )
        middle = out[:, 20, 10, :2]
        across = out[:, 20, 11, :2] - out[:, 20, 9, :2]
        down = out[:, 21, 10, :2] - out[:, 19, 10, :2]
        return middle, across / 2, down / 2

    middle, _, _ = matrices(degrees=0, translate=(0.25, 0.1))
    move = -middle
    np.testing.assert_array_equal(move, np.round(move))
    assert np.abs(move[:, 0]).max() == 4 and np.abs(move[:, 1]).max() == 5
    assert_uncorrelated(*move.T)
    _, across, down = matrices(degrees=0, scale=(0.5, 2.0))
    assert_uniform(1 / across[:, 1], 0.5, 2)
    np.testing.assert_allclose(across[:, 1], down[:, 0], atol=1e-5)
    _, across, down = matrices(degrees=0, shear=10)
    assert_uniform(np.degrees(np.arctan(down[:, 1])), -10, 10)
    np.testing.assert_allclose(across, np.tile([[0, 1]], (500, 1)), atol=1e-5)
    _, across, down = matrices(degrees=0, shear=(0, 0, 5, 20))
    assert_uniform(np.degrees(np.arctan(across[:, 0])), 5, 20)


def test_random_color_jitter_factors_have_torchvisions_ranges():
    bright = augment.random_color_jitter(key(), gray(), brightness=0.4)
    assert_uniform(bright[:, 0, 0, 0] / 0.5, 0.6, 1.4)
    dark = augment.random_color_jitter(key(), gray(value=0.2), brightness=2.0)
    assert_uniform(dark[:, 0, 0, 0] / 0.2, 0, 3)
    two = jnp.concatenate((gray(value=0.45), gray(value=0.55)), axis=2)
    out = augment.random_color_jitter(key(), two, contrast=0.3)
    assert_uniform((out[:, 0, 1, 0] - out[:, 0, 0, 0]) / 0.1, 0.7, 1.3)
    dull = gray() + jnp.array([0.05, 0.0, -0.05]).reshape(1, 1, 1, 3)
    out = augment.random_color_jitter(key(), dull, saturation=0.3)
    assert_uniform((out[:, 0, 0, 0] - out[:, 0, 0, 2]) / 0.1, 0.7, 1.3)
    red = gray() * jnp.array([2.0, 0.0, 0.0]).reshape(1, 1, 1, 3)
    out = np.asarray(augment.random_color_jitter(key(), red, hue=0.1))
    turn = np.where(out[..., 1] > 0, out[..., 1], -out[..., 2]) / 6
    assert_uniform(turn, -0.1, 0.1)


def test_orders_are_all_permutations_alike_often():
    orders = np.asarray(augment._random_orders(key(), 4800))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(range(4), (4800, 1)))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and ((counts - 200) ** 2 / 200).sum() < 49.7  # chi2(23)


def rectangles(shape, *, n=MANY, **options):
    """Top, left, height and width drawn by `random_resized_crop`."""
    images = ramp(n, *shape)
    out = np.asarray(augment.random_resized_crop(key(), images, size=32, **options))
    # Enlarged crops of a ramp rise evenly between their borders.
    height = (out[:, 20, 16, 0] - out[:, 12, 16, 0]) * 4
    width = (out[:, 16, 20, 1] - out[:, 16, 12, 1]) * 4
    middle = (out[:, 15, 15, :2] + out[:, 16, 16, :2]) / 2 + 0.5
    corner = middle - np.stack((height, width), axis=1) / 2
    result = np.column_stack((corner, height, width))
    np.testing.assert_allclose(result, np.round(result), atol=1e-3)
    return np.round(result).astype(int)


@pytest.mark.torch
@pytest.mark.parametrize(
    "shape, options",
    [
        ((16, 16), {}),
        ((10, 15), {"scale": (0.3, 0.9), "ratio": (0.5, 1.2)}),
    ],
)
def test_random_resized_crop_draws_as_torchvision(F, shape, options):
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(32, **options), torch.empty(3, *shape)
    drawn = [transform.make_params([image]) for _ in range(MANY)]
    theirs = np.array(
        [[p[k] for k in ("top", "left", "height", "width")] for p in drawn]
    )
    boxes = rectangles(shape, **options)
    assert (boxes >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array(shape)).all()
    for a, b in zip(boxes.T, theirs.T, strict=True):
        # Two-sample Kolmogorov-Smirnov at one in a thousand.
        values = np.arange(17)
        cdfs = [(x[:, None] <= values).mean(axis=0) for x in (a, b)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * np.sqrt(2 / MANY)


@pytest.mark.parametrize(
    "shape, ratio, expected",
    [
        ((20, 5), (0.5, 2.0), (5, 0, 10, 5)),
        ((5, 20), (0.5, 2.0), (0, 5, 5, 10)),
        ((9, 9), (0.5, 2.0), (0, 0, 9, 9)),
    ],
)
def test_random_resized_crop_falls_back_to_the_centre(shape, ratio, expected):
    # More area than the image has: no draw can fit.
    drawn = rectangles(shape, n=20, scale=(4.0, 5.0), ratio=ratio)
    np.testing.assert_array_equal(drawn, np.tile(expected, (20, 1)))


RANDOM = {
    "horizontal_flip": {},
    "vertical_flip": {},
    "crop": {"size": 12, "padding": 2},
    "resized_crop": {"size": 12},
    "rotation": {"degrees": 30},
    "affine": {"degrees": 9, "translate": (0.1, 0.1), "scale": (0.8, 1), "shear": 5},
    "color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_functions_are_functions_of_the_key(name):
    images = jnp.asarray(photos(16, 16, n=1), jnp.float32).repeat(16, axis=0)
    function = getattr(augment, f"random_{name}")
    before = function._cache_size()
    first = function(key(0), images, **RANDOM[name])
    np.testing.assert_array_equal(first, function(key(0), images, **RANDOM[name]))
    other = function(key(1), images, **RANDOM[name])
    assert np.any(first != other)
    assert function._cache_size() == before + 1
    # Sixteen copies of one photo do not come out alike.
    assert any(np.any(first[0] != sample) for sample in first[1:])
    assert first.dtype == jnp.float32 and first.min() >= 0 and first.max() <= 1
    keys = jnp.stack([key(0), key(1)])
    both = jax.vmap(lambda k, x: function(k, x, **RANDOM[name]), in_axes=(0, None))
    np.testing.assert_allclose(both(keys, images), [first, other], atol=1e-6)


@pytest.mark.parametrize("name", augment.PIPELINES)
def test_pipelines_compile_once_and_run_in_a_scan(name):
    images = jnp.asarray(photos(20, 20, n=8), jnp.float32)
    pipeline = augment.make_pipeline(name, size=16)
    outs = [pipeline(key(i), images) for i in range(3)]
    assert pipeline._cache_size() == 1
    assert outs[0].shape == (8, 16, 16, 3) and outs[0].dtype == jnp.float32
    assert min(x.min() for x in outs) >= 0 and max(x.max() for x in outs) <= 1
    same = np.array_equal(outs[0], outs[1])
    assert same == (name == "none")
    keys = jnp.stack([key(i) for i in range(3)])
    _, scanned = jax.lax.scan(lambda c, k: (c, pipeline(k, images)), None, keys)
    np.testing.assert_allclose(scanned, outs, atol=1e-6)


def test_none_pipeline_is_the_centre_crop():
    images = jnp.asarray(photos(21, 21), jnp.float32)
    out = augment.make_pipeline("none", size=16)(key(), images)
    np.testing.assert_array_equal(out, images[:, 2:18, 2:18])


def test_full_pipeline_turns_and_flips_and_colours():
    """The parts of the recipe, read off images that show one part alone."""
    size = 32
    images = jnp.full((256, 40, 40, 3), 0.5)
    out = np.asarray(augment.make_pipeline("full", size=size)(key(), images))
    centre = out[:, size // 2, size // 2, 0] / 0.5
    # Contrast sees the black corners, so the range is a little wider at the low end.
    assert 0.75 < centre.min() < 0.85 and 1.15 < centre.max() <= 1.2 * 1.05
    corners = out[:, 0, 0].max(axis=1) < 0.1
    assert 0.7 < corners.mean() < 1
    turned = augment.make_pipeline("full", size=size)(key(1), images * 0 + 1)
    assert not np.any(turned > 1)


def test_bad_options_are_named():
    images = jnp.zeros((2, 8, 8, 3))
    with pytest.raises(ValueError, match="none.*flips.*full"):
        augment.make_pipeline("fulll", size=8)
    with pytest.raises(ValueError, match="9 x 9 pixels from images of 8 x 8"):
        augment.make_pipeline("flips", size=9)(key(), images)
    with pytest.raises(ValueError, match="cubic.*nearest.*bilinear"):
        augment.random_rotation(key(), images, degrees=5, interpolation="cubic")
    with pytest.raises(ValueError, match="hue"):
        augment.random_color_jitter(key(), images, hue=0.6)
    with pytest.raises(ValueError, match="translate must be in 0 .. 1"):
        augment.random_affine(key(), images, degrees=5, translate=(2, 0))
    with pytest.raises(ValueError, match="ratio must be positive and increasing"):
        augment.random_resized_crop(key(), images, size=8, ratio=(2, 1))
    with pytest.raises(ValueError, match="got 1 channels"):
        augment.adjust_hue(images[..., :1], jnp.zeros(2))
