"""What happens to photographs on their way: JPEG with Pillow's bits, blur and noise."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from jaxvision import degrade, image_metrics
from jaxvision.data.pairs import enlarge, judging_key, pair_transform, reduce
from jaxvision.jpeg import jpeg
from jaxvision.preprocess import to_float

jpeg = jax.jit(jpeg, static_argnames="chroma_halved")
shrink = jax.jit(degrade.shrink, static_argnames="most")
blur = jax.jit(degrade.blur, static_argnames="most")
SLOW = pytest.mark.slow
CUBIC = degrade.KERNELS.index(degrade.CUBIC)


def photo(height, width, seed=0):
    """Edges, ramps and texture, in colour."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3)).astype(np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(large).astype(int) + rng.integers(-20, 21, (height, width, 3))
    noisy[: height // 3, : width // 2] = 255 * rng.integers(0, 2, 3)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def floats(*images):
    return jnp.asarray(np.stack(images) / np.float32(255))


def levels(images):
    return np.round(np.asarray(images) * 255).astype(int)


@pytest.mark.parametrize(
    ("size", "halved"),
    [((37, 50), True), ((1, 9), True), ((64, 48), False)]
    + [pytest.param((16, 17), halved, marks=SLOW) for halved in (True, False)],
)
def test_jpeg_has_pillows_bits(size, halved):
    qualities = [1, 5, 10, 25, 49, 50, 51, 75, 90, 95, 100]
    images = [photo(*size, seed=quality) for quality in qualities]
    quality = jnp.array(qualities, jnp.float32)
    ours = levels(jpeg(floats(*images), quality, chroma_halved=halved))
    for image, value, made in zip(images, qualities, ours, strict=True):
        file = io.BytesIO()
        sampling = 2 if halved else 0
        Image.fromarray(image).save(file, "JPEG", quality=value, subsampling=sampling)
        np.testing.assert_array_equal(made, np.asarray(Image.open(file)))


def test_jpeg_rounds_to_eight_bits_first():
    image = floats(photo(16, 16))
    quality = jnp.array([80.0])
    between = image + 0.4 / 255
    np.testing.assert_array_equal(jpeg(between, quality), jpeg(image, quality))


def test_blur_is_scipys_gaussian_for_each_image():
    images = np.stack([photo(40, 30, seed) for seed in range(3)]) / np.float32(255)
    rows, columns = np.float32([0.0, 0.7, 1.5]), np.float32([1.2, 0.0, 1.5])
    ours = blur(jnp.asarray(images), *map(jnp.asarray, (rows, columns)), most=2)
    for image, down, across, made in zip(images, rows, columns, ours, strict=True):
        sigma = (down, across, 0)
        expected = ndimage.gaussian_filter(
            image.astype(np.float64), sigma, mode="nearest", radius=(6, 6, 0)
        )
        np.testing.assert_allclose(made, expected, atol=1e-5)


def test_shrink_is_pils_resizing_there_and_back():
    """At a factor that gives whole pixels, away from the border, which PIL cuts."""
    images = floats(photo(48, 48), photo(48, 48, 1))
    kinds = jnp.array([CUBIC, CUBIC])
    factor = jnp.array([2.0, 1.0])
    ours = levels(shrink(images, factor, kinds, kinds, most=2.0))
    cubic = Image.Resampling.BICUBIC
    there = Image.fromarray(photo(48, 48)).resize((24, 24), cubic)
    back = np.asarray(there.resize((48, 48), cubic)).astype(int)
    assert np.abs(ours[0] - back)[12:-12, 12:-12].max() <= 3
    np.testing.assert_array_equal(ours[1], levels(images)[1])


@pytest.mark.parametrize("kind", range(len(degrade.KERNELS)))
def test_every_kernel_keeps_what_is_flat_and_where_things_are(kind):
    flat = jnp.full((1, 30, 31, 3), 0.25)
    kinds = jnp.array([kind])
    made = shrink(flat, jnp.array([1.37]), kinds, kinds, most=1.6)
    np.testing.assert_allclose(made, flat, atol=1e-6)
    # A ramp keeps its place: nothing is moved by half a pixel.
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 60)[None, None, :, None], (1, 8, 60, 3))
    made = shrink(ramp, jnp.array([1.43]), kinds, kinds, most=1.6)
    inside = np.asarray(made - ramp)[:, :, 8:-8]
    assert abs(inside.mean()) < 2e-3 and abs(inside).max() < 1.6 / 59


def test_noise_has_the_variance_that_is_asked_for():
    shape = (2, 200, 200, 3)
    normal = jax.random.normal(jax.random.key(0), shape)
    images = jnp.full(shape, 0.5)
    level, shot = jnp.array([0.02, 0.0]), jnp.array([0.0, 0.04])
    made = np.asarray(degrade.add_noise(images, normal, level, shot))
    assert made[0].std() == pytest.approx(0.02, rel=0.01)
    assert made[1].std() == pytest.approx(0.04 * 0.5**0.5, rel=0.01)
    assert made.mean() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["web", "camera"])
def test_each_image_is_degraded_in_its_own_way_and_always_alike(kind):
    same = floats(*[photo(32, 32)] * 4)
    make = jax.jit(degrade.degrade, static_argnames=("kind", "scale"))
    options = {"kind": kind, "scale": 2}
    made = make(jax.random.key(1), same, **options)
    assert made.shape == (4, 16, 16, 3) and made.dtype == jnp.float32
    np.testing.assert_array_equal(to_float(jnp.asarray(levels(made), np.uint8)), made)
    assert len({image.tobytes() for image in np.asarray(made)}) == 4
    np.testing.assert_array_equal(made, make(jax.random.key(1), same, **options))
    other = make(jax.random.key(2), same, **options)
    assert (np.asarray(other) != np.asarray(made)).any()
    # Worse than the reduction alone, and still the same picture.
    plain = levels(reduce(same, scale=2))
    apart = np.abs(levels(made) - plain).mean(axis=(1, 2, 3))
    assert (0.3 < apart).all() and (apart < 40).all()


@SLOW
def test_pairs_are_degraded_and_their_targets_are_not():
    options = {"crop_size": 32, "jitter": 0.0, "scale": 2, "enlarged": False}
    image = photo(40, 40)
    batch = {"image": jnp.asarray(image[None]), "size": jnp.array([[40, 40]])}
    key = jax.random.key(5)
    plain = jax.jit(pair_transform(**options))(key, batch)
    transform = jax.jit(pair_transform(**options, degradation="web"))
    web = transform(key, batch)
    np.testing.assert_array_equal(plain["target"], web["target"])
    assert (np.asarray(plain["image"]) != np.asarray(web["image"])).any()
    # Judged, a photograph has the same degradation at each epoch, by its place.
    first, again, second = (
        transform(None, {"image": batch["image"], "index": jnp.array(index)})
        for index in (0, 0, 1)
    )
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (np.asarray(first["image"]) != np.asarray(second["image"])).any()
    make = jax.jit(degrade.degrade, static_argnames=("kind", "scale"))
    expected = make(judging_key(1), floats(image), kind="web", scale=2)
    np.testing.assert_allclose(second["image"], expected, atol=2 / 255)


@SLOW
@pytest.mark.app
def test_a_photo_is_degraded_alike_in_validation_and_in_the_report():
    from experiments.runs.judging import _degraded, lower
    from experiments.training.enlarger import make_validate, stacks

    # Of two sizes: a photo's place in its stack is not its place among all.
    photos = [photo(32, 32, 1), photo(64, 64, 2), photo(32, 32, 3)]
    options = {"crop_size": 32, "jitter": 0.0, "scale": 2, "enlarged": True}
    pairs = pair_transform(**options, degradation="web")
    validate = make_validate(lambda p, s, x: (x, s), pairs, border=2)
    found = {}
    for places, images in stacks(photos, scale=2):
        psnr, _ = validate({}, {}, places, images)
        found |= dict(zip(places.tolist(), psnr.tolist(), strict=True))
    for index, image in enumerate(photos):
        low = lower(image, 2, degradation="web", index=index)
        made, true = enlarge(floats(low), scale=2), floats(image)
        psnr = image_metrics.psnr(made, true, border=2, luma=True, quantize=True)
        assert found[index] == pytest.approx(float(psnr[0]), abs=0.02)
    # A photo of any other size goes through one of few programs, and keeps its size.
    odd = np.ascontiguousarray(photos[1][:46, :60])
    assert lower(odd, 2, degradation="web", index=1).shape == (23, 30, 3)
    assert _degraded._cache_size() == 2


def test_the_photos_here_are_not_trivial():
    """What the other tests stand on: a blur changes them."""
    soft = Image.fromarray(photo(40, 40)).filter(ImageFilter.GaussianBlur(1))
    assert np.abs(np.asarray(soft).astype(int) - photo(40, 40)).mean() > 4


@pytest.mark.app
def test_the_denoiser_to_compare_with_takes_noise_away():
    from experiments.runs.judging import _without_noise

    rng = np.random.default_rng(0)
    flat = np.full((48, 48, 3), 128.0)
    noisy = np.clip(flat + rng.normal(0, 12, flat.shape), 0, 255).astype(np.uint8)
    clean = _without_noise(noisy)
    assert clean.dtype == np.uint8 and clean.shape == noisy.shape
    assert np.abs(clean - flat).mean() < np.abs(noisy - flat).mean() / 2
