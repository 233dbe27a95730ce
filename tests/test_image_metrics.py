"""PSNR and SSIM against scikit-image, and against published figures."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jaxvision.image_metrics import psnr, ssim, to_luma
from jaxvision.preprocess import to_float
from jaxvision.resize import bicubic, to_uint8_levels
from tests.double import x64

PROTOCOLS = [
    {},
    {"border": 2, "luma": True},
    {"border": 3, "luma": True, "quantize": True},
]


def pair(height=29, width=23, *, channels=3, dtype=np.float64):
    """Two smooth images and noisy copies, some values outside `[0, 1]`."""
    rng = np.random.default_rng(0)
    y, x, c = np.mgrid[:height, :width, :channels]
    a = np.stack([0.5 + 0.5 * np.sin(x / 5 + c), 0.9 - 0.02 * y + 0.05 * c])
    b = a + rng.standard_normal(a.shape) * np.array([0.02, 0.2]).reshape(2, 1, 1, 1)
    return a.astype(dtype), b.astype(dtype)


def prepared(image, *, border=0, luma=False, quantize=False):
    """The protocol in numpy and scikit-image, in 0..1."""
    image = image[border : len(image) - border, border : image.shape[1] - border]
    if quantize:
        image = np.round(np.clip(image, 0, 1) * 255) / 255
    if luma:
        image = rgb2ycbcr(image)[..., :1] / 255
        image = np.round(image * 255) / 255 if quantize else image
    return image


def reference_ssim(a, b):
    return structural_similarity(
        a,
        b,
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_equal_scikit_images(protocol, float64):
    a, b = pair()
    ours = np.stack([metric(a, b, **protocol) for metric in (psnr, ssim)])
    pairs = [
        (prepared(x, **protocol), prepared(y, **protocol))
        for x, y in zip(a, b, strict=True)
    ]
    theirs = [
        [peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs],
        [reference_ssim(x, y) for x, y in pairs],
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)


def test_smallest_image_has_one_window(float64):
    a, b = pair(11, 11, channels=1)
    # By the paper's formula, in full.
    offset = np.arange(11) - 5
    window = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    window = (window / window.sum())[None, :, :, None]

    def mean(x):
        return (window * x).sum((1, 2, 3))

    mean_a, mean_b = mean(a), mean(b)
    covariance = mean(a * b) - mean_a * mean_b
    variances = mean(a**2) - mean_a**2 + mean(b**2) - mean_b**2
    expected = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    expected *= (2 * covariance + 9e-4) / (variances + 9e-4)
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_padding_counts_for_nothing(dtype, rtol, float64):
    sizes = np.array([(29, 23), (18, 31), (14, 31)], np.int32)
    padded = np.full((2, 3, 40, 32, 3), np.nan, dtype)
    options = {"border": 2, "luma": True, "quantize": True}
    theirs = []
    for index, (height, width) in enumerate(sizes):
        whole = [images[1] for images in pair(height, width)]
        padded[:, index, :height, :width] = whole
        a, b = (prepared(image, **options) for image in whole)
        noisy = peak_signal_noise_ratio(a, b, data_range=1)
        # Of the last, ten rows are left, and SSIM's window has eleven.
        theirs.append([noisy, reference_ssim(a, b) if index < 2 else np.nan])
    ours = [metric(*padded, sizes=sizes, **options) for metric in (psnr, ssim)]
    assert all(figures.dtype == dtype for figures in ours)
    np.testing.assert_allclose(np.transpose(ours), theirs, rtol=rtol)


def test_closed_forms():
    a = jnp.full((2, 12, 12, 3), 0.25)
    b = jnp.stack([a[0], a[1] + 0.1])
    np.testing.assert_allclose(psnr(a, b), [np.inf, 20], rtol=1e-5)
    similar = (2 * 0.25 * 0.35 + 1e-4) / (0.25**2 + 0.35**2 + 1e-4)
    np.testing.assert_allclose(ssim(a, b), [1, similar], rtol=1e-5)
    # The studio range: white is 235, black is 16.
    tones = to_luma(jnp.array([1.0, 0]).repeat(3).reshape(2, 1, 1, 3)) * 255
    np.testing.assert_allclose(tones.ravel(), [235, 16], rtol=1e-6)
    grey = jnp.full((1, 5, 5, 1), 0.3)
    np.testing.assert_array_equal(to_luma(grey), grey)


def test_float32_is_close_to_float64():
    in_float32 = [m(*pair(dtype=np.float32), luma=True) for m in (psnr, ssim)]
    with x64():
        in_float64 = [m(*pair(), luma=True) for m in (psnr, ssim)]
    assert in_float32[0].dtype == jnp.float32
    np.testing.assert_allclose(in_float32[0], in_float64[0], atol=1e-4)
    np.testing.assert_allclose(in_float32[1], in_float64[1], atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_bad_images_are_named():
    a = jnp.zeros((1, 14, 20, 3))
    with pytest.raises(ValueError, match="14 x 20 have no window of 11 x 11 .* of 2"):
        ssim(a, a, border=2)
    with pytest.raises(ValueError, match="inside a border of 7"):
        psnr(a, a, border=7)
    with pytest.raises(ValueError, match="border of -1"):
        psnr(a, a, border=-1)
    with pytest.raises(ValueError, match=r"\(1, 14, 20, 3\) and \(1, 14, 20, 1\)"):
        psnr(a, a[..., :1])
    with pytest.raises(ValueError, match="call to_float first"):
        psnr(a.astype(jnp.uint8), a)
    with pytest.raises(ValueError, match="3 channels or 1, got 4"):
        psnr(jnp.zeros((1, 9, 9, 4)), jnp.zeros((1, 9, 9, 4)), luma=True)


def bicubic_figures(folder, metric):
    """Of bicubic x2, image by image, by the protocol of the published tables.

    That of SRCNN's code: the luma as 8 bits, reduced and enlarged in floats, and the
    result as 8 bits; grey files at their own levels; 2 pixels of border.
    """
    figures = []
    for path in sorted(folder.glob("*.png")):
        image = Image.open(path)
        pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
        height, width = (side // 2 * 2 for side in pixels.shape[:2])
        pixels = pixels.reshape(1, *pixels.shape[:2], -1)[:, :height, :width]
        truth = to_uint8_levels(to_luma(to_float(pixels)))
        small = bicubic(truth, size=(height // 2, width // 2))
        large = bicubic(small, size=(height, width))
        figures.append(metric(truth, large, border=2, quantize=True)[0])
    return figures


@pytest.mark.data
def test_psnr_of_bicubic_on_set5_is_as_published(data_folder):
    figures = bicubic_figures(data_folder / "sr" / "Set5", psnr)
    published = [37.07, 36.81, 27.43, 34.86, 32.14]
    np.testing.assert_allclose(figures, published, atol=0.011)
    assert abs(np.mean(figures) - 33.66) < 0.005


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    "name, metric, count, published, tolerance",
    [
        ("Set5", ssim, 5, 0.9299, 5e-5),
        ("Set14", psnr, 14, 30.23, 0.005),
        ("Set14", ssim, 14, 0.8687, 5e-5),
    ],
)
def test_bicubic_is_as_published(
    data_folder, name, metric, count, published, tolerance
):
    figures = bicubic_figures(data_folder / "sr" / name, metric)
    assert len(figures) == count
    assert abs(np.mean(figures) - published) < tolerance
