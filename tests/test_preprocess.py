"""Evaluation transforms against torchvision's presets, to the bit where PIL resizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision import preprocess

# (height, width): usual, odd, square, smaller than the crop, equal to the resize, thin.
SHAPES = [
    (375, 500),
    (333, 251),
    (301, 301),
    (37, 53),
    (256, 256),
    (256, 401),
    (9, 400),
    (321, 5),
    (1, 1),
]
# (resize, crop): v1 weights, v2 weights, crops that need padding, odd ones.
SIZES = [(256, 224), (232, 224), (64, 96), (64, 97), (75, 50)]


def noise(*shape, seed=0):
    """Noise on top of a gradient: aliasing and a shift by one pixel both show."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 127, shape[-2])[:, None]
    return (rng.integers(0, 128, shape) + ramp).astype(np.uint8)


@pytest.fixture(scope="module")
def preset():
    """Makes torchvision's preset of given sizes, a function of a PIL image."""
    pytest.importorskip("torch")
    from converters.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.transforms import _presets

    def make(resize, crop, **kwargs):
        transform = _presets.ImageClassification(
            crop_size=crop, resize_size=resize, **kwargs
        )
        return lambda image: transform(image).permute(1, 2, 0).numpy()

    return make


@pytest.mark.torch
@pytest.mark.parametrize("resize, crop", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_eval_image_gives_torchvisions_bits(preset, shape, resize, crop):
    image = Image.fromarray(noise(*shape, 3))
    ours = preprocess.eval_image(image, resize=resize, crop=crop)
    assert ours.dtype == np.uint8 and ours.shape == (crop, crop, 3)
    assert ours.flags.owndata and ours.flags.writeable
    # Mean 0 and std 1 leave the plain [0, 1] image of the preset.
    theirs = preset(resize, crop, mean=(0, 0, 0), std=(1, 1, 1))(image)
    np.testing.assert_array_equal(ours, np.round(theirs * 255).astype(np.uint8))
    np.testing.assert_array_equal(preprocess.to_float(ours), theirs)


@pytest.mark.torch
def test_normalized_output_is_within_one_unit_in_the_last_place(preset):
    recipe = preprocess.Preprocessing()
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    photo = noise(311, 277, 3)

    @jax.jit
    def finish(pixels):
        floats = preprocess.to_float(pixels)
        return preprocess.normalize(floats, mean=recipe.mean, std=recipe.std)

    for pixels, resize, crop in [(ramp, 16, 16), (photo, recipe.resize, recipe.crop)]:
        image = Image.fromarray(pixels)
        theirs = preset(resize, crop)(image)
        ours = preprocess.eval_image(image, resize=resize, crop=crop)
        compiled = finish(ours)
        assert compiled.dtype == jnp.float32
        np.testing.assert_array_max_ulp(np.asarray(compiled), theirs, maxulp=1)
        plain = preprocess.normalize(preprocess.to_float(ours))
        np.testing.assert_array_max_ulp(np.asarray(plain), theirs, maxulp=1)


@pytest.mark.torch
def test_preprocessing_defaults_are_those_of_the_weights(preset):
    from torchvision.models import ResNet18_Weights, Wide_ResNet50_2_Weights

    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()
    ours = preprocess.Preprocessing()
    assert [ours.resize] == theirs.resize_size and [ours.crop] == theirs.crop_size
    assert list(ours.mean) == theirs.mean and list(ours.std) == theirs.std
    image = Image.fromarray(noise(300, 401, 3))
    pixels = preprocess.eval_image(image, resize=232, crop=224)
    theirs = Wide_ResNet50_2_Weights.IMAGENET1K_V2.transforms()(image)
    normalized = np.asarray(preprocess.normalize(preprocess.to_float(pixels)))
    np.testing.assert_array_max_ulp(
        normalized, theirs.permute(1, 2, 0).numpy(), maxulp=1
    )


def test_square_image_is_the_centre_of_the_short_side():
    pixels = noise(64, 91, 3)
    square = preprocess.square_image(Image.fromarray(pixels), size=64)
    # (91 - 64) / 2 = 13.5 rounds to the even 14.
    np.testing.assert_array_equal(square, pixels[:, 14:78])
    pixels = noise(93, 64, 3)  # (93 - 64) / 2 = 14.5 rounds to the even 14 too
    square = preprocess.square_image(Image.fromarray(pixels), size=64)
    np.testing.assert_array_equal(square, pixels[14:78])


@pytest.mark.parametrize("resize, crop", [(256, 224), (64, 97), (75, 50)])
@pytest.mark.parametrize("shape", [(375, 500), (333, 251), (37, 53), (256, 256)])
def test_device_path_is_within_one_of_pil(shape, resize, crop):
    pixels = noise(2, *shape, 3)
    on_device = preprocess.resize_center_crop(pixels, resize=resize, crop=crop)
    assert on_device.dtype == jnp.uint8
    for ours, original in zip(on_device, pixels, strict=True):
        image = Image.fromarray(original)
        theirs = preprocess.eval_image(image, resize=resize, crop=crop)
        assert np.abs(np.asarray(ours, int) - theirs).max() <= 1


@pytest.mark.torch
@pytest.mark.parametrize("resize, crop", SIZES[1:])
def test_device_path_equals_float_tensors(preset, float64, resize, crop):
    import torch
    from torchvision.transforms.v2 import functional as F

    images = np.random.default_rng(0).random((2, 131, 97, 3))
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    theirs = F.center_crop(F.resize(tensors, [resize], antialias=True), [crop])
    ours = preprocess.resize_center_crop(images, resize=resize, crop=crop)
    assert ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=0, atol=1e-12)


def test_interpolation_taps_stay_in_the_crop_and_compile_once():
    @jax.jit
    def taps(start, length):
        return preprocess.interpolation_taps(start, length, size=20, out_size=8)

    start, length = np.array([5, 3, 0, 19]), np.array([10, 8, 20, 1])
    index, weight = taps(start, length)
    np.testing.assert_allclose(weight.sum(axis=2), 1, atol=1e-6)
    for row, (first, count) in enumerate(zip(start, length, strict=True)):
        used = np.asarray(index[row])[np.asarray(weight[row]) > 0]
        assert set(used) == set(range(first, first + count))
    # As many pixels as asked for: each is its source.
    np.testing.assert_array_equal((index * weight).sum(axis=2)[1], np.arange(3, 11))
    taps(start + 1, length - 1)
    assert taps._cache_size() == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_eval_image_rejects_other_modes(mode):
    with pytest.raises(ValueError, match=f"RGB image, got mode '{mode}'"):
        preprocess.eval_image(Image.new(mode, (9, 9)), resize=8, crop=8)


@pytest.mark.usefixtures("unchecked")
def test_bad_sizes_and_types_are_named():
    image = Image.new("RGB", (9, 9))
    with pytest.raises(ValueError, match="crop must be at least one pixel, got 0"):
        preprocess.eval_image(image, resize=8, crop=0)
    with pytest.raises(ValueError, match="short side of 0"):
        preprocess.eval_image(image, resize=0, crop=4)
    with pytest.raises(ValueError, match="got int32"):
        preprocess.to_float(np.zeros((2, 2, 3), np.int32))
    with pytest.raises(ValueError, match="call to_float first"):
        preprocess.normalize(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="got int32"):
        preprocess.resize_center_crop(np.zeros((1, 9, 9, 3), int), resize=8, crop=8)
