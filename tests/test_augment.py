"""Augmentations against torchvision's functions; what the random ones draw."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.torchvision_import import import_torchvision
from jaxvision import augment
from jaxvision.augment import pipelines
from tests.augmentations import (  # noqa: F401  fixtures among them
    MANY,
    F,
    N,
    assert_counts_alike,
    assert_uncorrelated,
    assert_uniform,
    close,
    drawn,
    key,
    ours,
    photos,
)
from tests.double import x64

COLOURS = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.torch
@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flips_equal_torchvisions(F, float64, direction):
    images, flip = photos(), np.arange(N) % 2 == 1
    result = ours(f"{direction}_flip", images, flip)
    theirs = F(f"{direction}_flip", images)
    np.testing.assert_array_equal(result[1::2], theirs[1::2])
    np.testing.assert_array_equal(result[::2], images[::2])


ANGLES = np.array([0.0, 14.3, -97.1, 180.0, 90.0, 333.3])


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(37, 52), (41, 41)])
def test_rotate_equals_torchvisions(F, float64, shape, interpolation):
    images = photos(*shape)
    # A quarter turn of sides of unlike parity reads between the pixels: rounding noise.
    angles = np.where((ANGLES == 90) & (sum(shape) % 2 == 1), 89.0, ANGLES)
    result = ours("rotate", images, angles, interpolation=interpolation)
    theirs = F("rotate", images, angles, interpolation=mode(interpolation))
    close(result, theirs, 0 if interpolation == "nearest" else 1e-12)


def mode(name):
    return import_torchvision().transforms.InterpolationMode(name)


@pytest.mark.torch
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_affine_equals_torchvisions(F, float64, interpolation):
    images = photos(45, 31)
    translate = np.array([[0, 0], [3, -5], [-11, 2], [0, 7], [1, 1], [60, 0]], float)
    scale = np.array([1.0, 0.73, 1.31, 2.1, 0.4, 1.0])
    shear = np.array([[0, 0], [12, 0], [0, -9], [7, 5], [-20, 14], [0, 0]], float)
    parameters = (images, ANGLES + 0.1, translate, scale, shear)
    result = ours("affine", *parameters, interpolation=interpolation)
    theirs = F("affine", *parameters, interpolation=mode(interpolation))
    close(result, theirs, 0 if interpolation == "nearest" else 1e-12)


def test_float32_rotation_reads_the_pixels_of_float64():
    images = photos(224, 224, n=2)
    angles = np.array([-11.7, 7.77])
    with x64():
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
    close(result, F(f"adjust_{name}", images, factors), atol)


@pytest.mark.torch
@pytest.mark.parametrize("with_hue", [False, True])
def test_color_jitter_equals_torchvisions_in_every_order(F, float64, with_hue):
    orders = np.array(list(itertools.permutations(range(4))))
    theirs = images = photos(19, 23, n=len(orders))
    rng = np.random.default_rng(1)
    factors = rng.uniform(0.3, 1.9, (4, len(orders)))
    factors[3] = rng.uniform(-0.5, 0.5, len(orders))
    for slot in orders.T:
        choices = [
            F(f"adjust_{name}", theirs, factor) if with_hue or name != "hue" else theirs
            for name, factor in zip(COLOURS, factors, strict=True)
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
    np.testing.assert_array_equal(result, F("crop", images, top, left, square, square))
    padded = F("pad", images, np.full(N, 4))
    result = ours("crop", images, top, left, size=28, padding=4)
    np.testing.assert_array_equal(result, F("crop", padded, top, left, square, square))
    for size in (28, 31):
        theirs = F("center_crop", images, np.full(N, size))
        np.testing.assert_array_equal(ours("center_crop", images, size=size), theirs)


@pytest.mark.torch
@pytest.mark.parametrize("size", [16, 61])
def test_resized_crop_equals_torchvisions(F, float64, size):
    images = photos()
    top, left = np.array([0, 5, 11, 0, 36, 20]), np.array([0, 9, 3, 20, 51, 0])
    height, width = np.array([37, 21, 16, 30, 1, 17]), np.array([52, 16, 40, 9, 1, 52])
    boxes = (images, top, left, height, width)
    result = ours("resized_crop", *boxes, size=size)
    theirs = F("resized_crop", *boxes, np.full((N, 2), size), antialias=True)
    close(result, theirs, 1e-13)


# Random versions: what they draw, caught where they hand it to the functions above.
@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_random_flips_flip_a_fraction_p(drawn, direction):
    name = f"{direction}_flip"
    for p in (0.0, 0.3, 0.5, 1.0):
        (flip,) = drawn(name, to=name, p=p)
        assert flip.dtype == bool
        assert abs(flip.mean() - p) <= 4 * np.sqrt(p * (1 - p) / MANY)


def test_random_crop_corners_are_uniform_in_the_padded_image(drawn):
    top, left = drawn("crop", to="crop", shape=(9, 7), size=5, padding=1)
    assert_counts_alike(top, 7)
    assert_counts_alike(left, 5)
    assert_uncorrelated(top, left)
    assert not np.any(drawn("crop", to="crop", shape=(5, 5), size=5))


def test_random_rotation_angles_are_uniform(drawn):
    assert_uniform(*drawn("rotation", to="rotate", degrees=15), -15, 15)
    assert_uniform(*drawn("rotation", to="rotate", degrees=(20, 60)), 20, 60)


def test_random_affine_parameters_have_torchvisions_ranges(drawn):
    angle, translate, scale, shear = drawn(
        "affine",
        to="affine",
        shape=(400, 100),
        degrees=20,
        translate=(0.1, 0.2),
        scale=(0.5, 2.0),
        shear=(-10, 5, 7, 9),
    )
    assert_uniform(angle, -20, 20)
    for moves, reach in zip(translate, (10, 80), strict=True):
        np.testing.assert_array_equal(moves, np.round(moves))
        assert moves.min() == -reach and moves.max() == reach
    assert_uniform(scale, 0.5, 2)
    assert_uniform(shear[0], -10, 5)
    assert_uniform(shear[1], 7, 9)
    assert_uncorrelated(angle, *translate, scale, *shear)
    angle, translate, scale, shear = drawn("affine", to="affine", degrees=0, shear=8)
    assert not np.any([angle, *translate, scale - 1, shear[1]])
    assert_uniform(shear[0], -8, 8)


def test_random_color_jitter_parameters_have_torchvisions_ranges(drawn):
    amounts = {"brightness": 0.4, "contrast": 0.2, "saturation": 3.0, "hue": 0.1}
    *parameters, order = drawn("color_jitter", to="color_jitter", **amounts)
    ranges = ((0.6, 1.4), (0.8, 1.2), (0, 4), (-0.1, 0.1))
    for values, (low, high) in zip(parameters, ranges, strict=True):
        assert_uniform(values, low, high)
    np.testing.assert_array_equal(np.sort(order, axis=0)[:, 0], range(4))
    kinds, index = np.unique(order, axis=1, return_inverse=True)
    assert kinds.shape == (4, 24)
    assert_counts_alike(index.ravel(), 24)
    assert_uncorrelated(*parameters, order[0])
    *parameters, hue, order = drawn("color_jitter", to="color_jitter")
    assert hue is None and all((p == 1).all() for p in parameters)


@pytest.mark.torch
@pytest.mark.parametrize(
    "shape, options",
    [
        ((20, 31), {}),
        ((30, 30), {"scale": (0.9, 1.0), "ratio": (0.7, 1.4)}),
    ],
)
def test_random_resized_crop_draws_as_torchvision(F, drawn, shape, options):
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(64, **options), torch.empty(3, *shape)
    theirs = [transform.make_params([image]) for _ in range(MANY)]
    boxes = drawn("resized_crop", to="resized_crop", shape=shape, size=64, **options)
    top, left, height, width = boxes
    assert np.min([top, left]) >= 0 and np.min([height, width]) > 0
    assert (top + height).max() <= shape[0] and (left + width).max() <= shape[1]
    for box, name in zip(boxes, ("top", "left", "height", "width"), strict=True):
        # Two-sample Kolmogorov-Smirnov at one in a thousand.
        samples = (box, np.array([parameters[name] for parameters in theirs]))
        cdfs = [(x[:, None] <= np.arange(33)).mean(axis=0) for x in samples]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * np.sqrt(2 / MANY)


def test_random_resized_crop_falls_back_to_the_centre(drawn):
    boxes = {(40, 10): (10, 0, 20, 10), (10, 40): (0, 10, 10, 20), (9, 9): (0, 0, 9, 9)}
    for shape, expected in boxes.items():
        # More area than the image has: no draw can fit.
        options = {"size": 8, "scale": (4.0, 5.0), "ratio": (0.5, 2.0)}
        box = drawn("resized_crop", to="resized_crop", shape=shape, n=9, **options)
        np.testing.assert_array_equal(np.transpose(box), np.tile(expected, (9, 1)))


RANDOM = {
    "horizontal_flip": {},
    "vertical_flip": {},
    "crop": {"size": 12, "padding": 2},
    "resized_crop": {"size": 12},
    "pad_crop": {"padding": 2},
    "cutout": {"size": 6},
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
    both = jax.vmap(partial(function, **RANDOM[name]), in_axes=(0, None))
    np.testing.assert_allclose(both(keys, images), [first, other], atol=1e-6)


@pytest.mark.parametrize("name", augment.PIPELINES)
def test_pipelines_compile_once_and_run_in_a_scan(name):
    images = jnp.asarray(photos(20, 20, n=8), jnp.float32)
    pipeline = augment.make_pipeline(name, size=16)
    outs = [pipeline(key(i), images) for i in range(3)]
    assert pipeline._cache_size() == 1
    assert outs[0].shape == (8, 16, 16, 3) and outs[0].dtype == jnp.float32
    assert min(x.min() for x in outs) >= 0 and max(x.max() for x in outs) <= 1
    if name == "none":
        np.testing.assert_array_equal(outs[0], images[:, 2:18, 2:18])
    else:
        assert np.any(outs[0] != outs[1])
    keys = jnp.stack([key(i) for i in range(3)])
    _, scanned = jax.lax.scan(lambda c, k: (c, pipeline(k, images)), None, keys)
    np.testing.assert_allclose(scanned, outs, atol=1e-6)


def test_full_pipeline_crops_flips_turns_and_colours_in_this_order(monkeypatch):
    calls = []

    def spy(name, function, key, images, **options):
        calls.append((name, images.shape[1], options))
        return function(key, images, **options)

    for name in ("crop", "horizontal_flip", "rotation", "color_jitter"):
        function = getattr(pipelines, f"random_{name}")
        monkeypatch.setattr(pipelines, f"random_{name}", partial(spy, name, function))
    jax.eval_shape(partial(augment.full, size=32), key(), jnp.zeros((2, 40, 40, 3)))
    assert calls == [
        ("crop", 40, {"size": 32}),
        ("horizontal_flip", 32, {}),
        ("rotation", 32, {"degrees": 15}),
        ("color_jitter", 32, dict.fromkeys(COLOURS[:3], 0.2)),
    ]


def test_bad_options_are_named():
    images = jnp.zeros((2, 8, 8, 3))
    with pytest.raises(ValueError, match="none.*flips.*full"):
        augment.make_pipeline("fulll", size=8)
    with pytest.raises(ValueError, match="9 x 9 pixels from images of 8 x 8"):
        augment.make_pipeline("flips", size=9)(key(), images)
    with pytest.raises(ValueError, match="cubic.*nearest.*bilinear"):
        augment.rotate(images, jnp.zeros(2), interpolation="cubic")
    with pytest.raises(ValueError, match="hue"):
        augment.random_color_jitter(key(), images, hue=0.6)
    with pytest.raises(ValueError, match="translate must be"):
        augment.random_affine(key(), images, degrees=5, translate=(2, 0))
    with pytest.raises(ValueError, match="ratio must be positive and increasing"):
        augment.random_resized_crop(key(), images, size=8, ratio=(2, 1))
    with pytest.raises(ValueError, match="got 1 channels"):
        augment.adjust_hue(images[..., :1], jnp.zeros(2))
