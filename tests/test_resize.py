"""Bicubic resizing against PIL's bits and against torch's float tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision.preprocess import to_float
from jaxvision.resize import bicubic, to_uint8_levels

# (from, to) as (height, width): halved, doubled, odd, by no whole number, along one
# axis, up from one pixel, and far down.
SIZES = [
    ((24, 18), (12, 9)),
    ((13, 17), (26, 34)),
    ((31, 40), (10, 13)),
    ((14, 9), (23, 15)),
    ((9, 7), (9, 20)),
    ((16, 5), (3, 5)),
    ((1, 1), (4, 3)),
    ((60, 40), (3, 2)),
]


def pixels(height, width):
    """Noise, black and white noise (which overshoots most), and plain white."""
    rng = np.random.default_rng(height)
    shape = (height, width, 3)
    noise = rng.integers(0, 256, shape)
    return np.stack([noise, 255 * (noise > 127), np.full(shape, 255)]).astype(np.uint8)


def pil(images, size):
    height, width = size
    return np.stack(
        [
            np.asarray(
                Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            )
            for image in images
        ]
    )


@pytest.mark.parametrize("before, after", SIZES)
def test_uint8_has_pils_bits(before, after):
    images = pixels(*before)
    ours = bicubic(images, size=after)
    assert ours.dtype == jnp.uint8
    np.testing.assert_array_equal(ours, pil(images, after))


@pytest.mark.torch
@pytest.mark.parametrize("before, after", [*SIZES[:4], ((20, 11), (8, 30))])
def test_floats_equal_torchs(before, after, float64):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((2, *before, 3))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        size=after,
        mode="bicubic",
        antialias=True,
    ).permute(0, 2, 3, 1)
    ours = bicubic(images, size=after)
    assert ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("before, after", SIZES[:2])
def test_floats_miss_pil_by_its_rounding_alone(before, after):
    # From the middle of the range the first pass overshoots nowhere.
    images = 64 + pixels(*before)[:2] // 2
    ours = np.asarray(bicubic(to_float(images), size=after)) * 255
    off = np.abs(ours - pil(images, after)).max()
    assert 0.4 < off <= 1.13


def test_result_is_the_same_in_float32_under_vmap_and_in_half_precision():
    images = to_float(pixels(24, 18))
    plain = bicubic(images, size=(12, 9))
    assert plain.dtype == jnp.float32
    one_by_one = jax.vmap(lambda image: bicubic(image[None], size=(12, 9))[0])(images)
    np.testing.assert_allclose(one_by_one, plain, atol=1e-7)
    half = bicubic(images.astype(jnp.bfloat16), size=(12, 9))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), plain, atol=0.01)


def test_gradient_is_the_transposed_resize():
    x = jnp.asarray(np.random.default_rng(0).random((1, 6, 5, 1), np.float32))
    y = jnp.asarray(np.random.default_rng(1).random((1, 12, 10, 1), np.float32))
    out, pull = jax.vjp(lambda x: bicubic(x, size=(12, 10)), x)
    np.testing.assert_allclose((out * y).sum(), (pull(y)[0] * x).sum(), rtol=1e-5)


def test_size_that_stays_is_the_image_itself():
    images = to_float(pixels(9, 7))
    np.testing.assert_array_equal(bicubic(images, size=(9, 7)), images)


def test_levels_are_those_of_a_file():
    levels = to_float(jnp.arange(256, dtype=jnp.uint8))
    for rounded in (to_uint8_levels, jax.jit(to_uint8_levels)):
        np.testing.assert_array_equal(rounded(levels), levels)
        np.testing.assert_array_equal(rounded(levels + 0.4 / 255), levels)
        outside = jnp.array([-0.2, 1.3, 0.5])
        np.testing.assert_array_equal(
            rounded(outside), levels[jnp.array([0, 255, 128])]
        )


@pytest.mark.usefixtures("unchecked")
def test_bad_images_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"\(1, 9, 9, 3\) to 0 x 4"):
        bicubic(np.zeros((1, 9, 9, 3), np.float32), size=(0, 4))
    with pytest.raises(ValueError, match=r"shape \(9, 9\)"):
        bicubic(np.zeros((9, 9), np.float32), size=(4, 4))
    with pytest.raises(ValueError, match="got int32"):
        bicubic(np.zeros((1, 9, 9, 3), np.int32), size=(4, 4))
