"""What cannot be seen of a drawing is no part of its enlargement's edges."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from converters.bundle import save_bundle
from experiments import upscale
from experiments.inference.picture import spread_visible
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing

COLOR = (255, 200, 40)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    name = "srcnn_915_residual"
    model = models.create(name, rngs=nnx.Rngs(0))
    save_bundle(
        folder / "model.safetensors",
        name,
        *functionalize(model)[1:],
        classes=(),
        preprocessing=Preprocessing(),
    )
    return folder


def disc(mode, *, hidden):
    """A disc of one colour, smooth at its edge; around it nothing can be seen."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    alpha = np.clip(12 - np.hypot(rows, columns), 0, 1)
    pixels = np.full((32, 32, 4), (*COLOR, 255), np.uint8)
    pixels[..., 3] = np.round(255 * alpha)
    pixels[pixels[..., 3] == 0, :3] = hidden
    image = Image.fromarray(pixels)
    if mode == "LA":
        grey = Image.fromarray(pixels[..., 0])
        grey.putalpha(image.getchannel("A"))
        return grey
    if mode == "P":
        return image.quantize()
    return image


def enlarged(run, image, tmp_path, name):
    image.save(tmp_path / f"{name}.png")
    options = {"output": tmp_path / "out", "overwrite": True}
    (path,) = upscale.main(
        upscale.Config(model=str(run), images=(tmp_path / f"{name}.png",), **options)
    )
    return np.asarray(Image.open(path).convert("RGBA")).astype(int)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_hidden_colour_changes_nothing_that_shows(run, tmp_path, mode):
    black, same = (
        enlarged(run, disc(mode, hidden=hidden), tmp_path, name)
        for name, hidden in (("black", (0, 0, 0)), ("same", COLOR))
    )
    np.testing.assert_array_equal(black[..., 3], same[..., 3])
    shown = same[..., 3:] > 0
    assert (np.abs(black - same) * shown).max() == 0


def test_a_palette_with_transparency_bleeds_no_more(run, tmp_path):
    image = enlarged(run, disc("P", hidden=(0, 0, 0)), tmp_path, "palette")
    edge = (image[..., 3] > 20) & (image[..., 3] < 250)
    inner = image[28:36, 28:36, :3].mean((0, 1))
    assert np.abs(image[edge][:, :3] - inner).max() < 40


def test_nothing_to_see_and_nothing_hidden_stay_as_they_are():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for alpha in (0, 1, 255):
        kept = spread_visible(pixels, np.full((4, 4), alpha, np.uint8))
        np.testing.assert_array_equal(kept, pixels)
