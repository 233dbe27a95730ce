"""Up-scaling files of one's own: every kind of image, no seam, nothing lost unsaid."""

import sys
import warnings
from typing import Any

import numpy as np
import pytest
from flax import nnx
from PIL import Image, ImageCms

from converters.bundle import save_bundle
from experiments import upscale
from experiments.command.options import run_cli
from experiments.inference.enlarger import (
    enlarge_pixels,
    load_model,
    make_enlarger,
    to_levels,
)
from jaxvision import models
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a model that changes much, also at the borders."""
    folder = tmp_path_factory.mktemp("run")
    model: Any = models.create("srcnn_915_residual", rngs=nnx.Rngs(0))
    model.conv3.kernel[...] *= 100.0
    model.conv1.bias[...] += 0.2
    _, params, stats = functionalize(model)
    save_bundle(
        folder / "model.safetensors",
        "srcnn_915_residual",
        params,
        stats,
        classes=(),
        preprocessing=Preprocessing(),
    )
    return folder


@pytest.fixture(scope="module")
def whole(run):
    """What the model makes of a whole image at once: uint8 to uint8."""
    enlarger = make_enlarger(load_model(run))
    return lambda pixels: to_levels(enlarger.fn(pixels[None]))[0]


def noise(height, width, channels=3):
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def call(monkeypatch, run, *words):
    """The command, in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["x", "--model", str(run), *map(str, words)])
    try:
        run_cli(upscale.Config, upscale.main, prog="upscale")
    except SystemExit as error:
        return error.code
    return 0


def enlarged(monkeypatch, run, image, tmp_path, *words, suffix=".png", **options):
    """The command's result of one image, loaded."""
    source, output = tmp_path / f"in{suffix}", tmp_path / "out"
    image.save(source, **options)
    words = (source, "--output", output, "--tile", "24", *words)
    assert call(monkeypatch, run, *words) == 0
    (result,) = output.iterdir()
    with Image.open(result) as made:
        made.load()
        return made


@pytest.mark.floor
def test_tiled_photo_equals_the_whole_one(monkeypatch, run, whole, tmp_path, capsys):
    made = enlarged(monkeypatch, run, Image.fromarray(noise(40, 25)), tmp_path)
    assert made.mode == "RGB" and made.size == (50, 80)
    ours, expected = np.asarray(made, int), whole(noise(40, 25)).astype(int)
    assert np.abs(ours - expected).max() <= 1  # where a value lies between two levels
    assert (ours != expected).mean() < 1e-3
    assert "in_x2.png: 25 x 40 to 50 x 80 pixels" in capsys.readouterr().out


def test_one_row_of_pixels_is_an_image(monkeypatch, run, whole, tmp_path):
    made = enlarged(monkeypatch, run, Image.fromarray(noise(1, 30)), tmp_path)
    assert np.abs(np.asarray(made, int) - whole(noise(1, 30))).max() <= 1


def test_grey_stays_grey_and_alpha_is_enlarged_too(monkeypatch, run, whole, tmp_path):
    gray = noise(20, 20, 1)
    alpha = Image.fromarray(np.arange(400).reshape(20, 20).astype(np.uint8) // 2)
    expected = Image.fromarray(whole(np.repeat(gray[..., None], 3, axis=2)))
    image = Image.fromarray(gray)
    made = enlarged(monkeypatch, run, image, tmp_path)
    assert made.mode == "L"
    assert np.abs(np.asarray(made, int) - np.asarray(expected.convert("L"))).max() <= 1
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(gray).convert(mode)
        image.putalpha(alpha)
        made = enlarged(monkeypatch, run, image, tmp_path, "--overwrite")
        assert made.mode == mode and made.size == (40, 40)
        np.testing.assert_array_equal(
            made.getchannel("A"), alpha.resize((40, 40), Image.Resampling.BICUBIC)
        )


def test_palette_keeps_its_transparency(monkeypatch, run, tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 10, 20))
    plain = enlarged(monkeypatch, run, image, tmp_path)
    assert plain.mode == "RGB"
    words = ("--overwrite",)
    made = enlarged(monkeypatch, run, image, tmp_path, *words, transparency=0)
    assert made.mode == "RGBA"
    alpha = np.asarray(made.getchannel("A"))
    assert alpha[20, 2] == 0 and alpha[20, 37] == 255


def test_camera_file_is_turned_and_keeps_its_profile(monkeypatch, run, whole, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(noise(20, 30))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise
    options = {"exif": exif, "icc_profile": profile}
    made = enlarged(monkeypatch, run, image, tmp_path, **options)
    assert made.size == (40, 60) and made.info["icc_profile"] == profile
    assert ORIENTATION not in made.getexif()
    upright = np.ascontiguousarray(np.rot90(noise(20, 30), -1))
    assert np.abs(np.asarray(made, int) - whole(upright)).max() <= 1


def test_format_same_writes_what_was_read(monkeypatch, run, whole, tmp_path):
    smooth = Image.fromarray(noise(5, 6)).resize((30, 20), Image.Resampling.BICUBIC)
    options = {"suffix": ".jpg", "quality": 100, "subsampling": 0}
    made = enlarged(monkeypatch, run, smooth, tmp_path, "--format", "same", **options)
    assert made.format == "JPEG" and made.size == (60, 40)
    with Image.open(tmp_path / "in.jpg") as source:
        expected = whole(np.asarray(source)).astype(int)
    assert np.abs(np.asarray(made, int) - expected).mean() < 4


def wrong_files(folder):
    """Files that cannot be enlarged, and what is said of them."""
    good = Image.fromarray(noise(20, 20))
    good.save(folder / "a.png")
    good.save(folder / "a.bmp")
    Image.fromarray(np.zeros((20, 20), np.float32)).save(folder / "float.tif")
    (folder / "text.png").write_text("no image")
    (folder / "folder").mkdir()
    (folder / "out").mkdir()
    (folder / "out" / "a_x2.png").write_bytes(b"mine")
    return {
        "float.tif": "floating-point pixels: convert it to 8 or 16 bits first",
        "text.png": "no image",
        "none.png": "No such file",
        "folder": "no images in this folder",
        "a.png": "a_x2.png exists: give another --output folder or --overwrite",
        "a.png a.bmp": "would both become",
    }


def test_wrong_files_are_named_before_anything_is_written(
    monkeypatch, run, tmp_path, capsys
):
    for names, message in wrong_files(tmp_path).items():
        files = [tmp_path / name for name in names.split()]
        assert call(monkeypatch, run, *files, "--output", tmp_path / "out") == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        assert message in err and files[0].stem in err
    assert (tmp_path / "out" / "a_x2.png").read_bytes() == b"mine"
    assert len(list((tmp_path / "out").iterdir())) == 1
    (tmp_path / "b_x2.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    files = [tmp_path / name for name in ("b.png", "b_x2.png")]
    words = (*files, "--output", tmp_path, "--overwrite")
    assert call(monkeypatch, run, *words) == 2
    assert "b_x2.png is one of the images" in capsys.readouterr().err


def test_wrong_calls_exit_with_2(monkeypatch, run, tmp_path, capsys):
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    out = ("--output", tmp_path / "out")
    for folder, words, message in (
        (tmp_path, (tmp_path / "a.png", *out), "no model.safetensors"),
        (run, out, "name the images, or folders of images"),
        (run, (tmp_path / "a.png", *out, "--tile", "10"), "needs more than 10"),
        (run, (tmp_path / "a.png", *out, "--scale", "3"), "trained for --scale 2"),
        ("lihgt", (tmp_path / "a.png", *out), "no such run, and no name of light"),
    ):
        assert call(monkeypatch, folder, *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written_are_named_first(
    monkeypatch, run, tmp_path, capsys
):
    Image.fromarray(noise(1, 8200)).save(tmp_path / "long.webp", quality=10)
    words = (tmp_path / "long.webp", "--output", tmp_path / "out", "--format", "same")
    assert call(monkeypatch, run, *words) == 2
    message = "at most 16383 pixels a side, and this would have 16400: use --format png"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    words = (tmp_path / "long.webp", "--output", tmp_path / "long.webp")
    assert call(monkeypatch, run, *words) == 2
    assert "--output" in capsys.readouterr().err


def test_large_photos_are_welcome_without_a_warning(monkeypatch, run, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 350)
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    with warnings.catch_warnings(action="error"):
        words = (tmp_path / "a.png", "--output", tmp_path / "out")
        assert call(monkeypatch, run, *words) == 0


def test_damaged_file_does_not_cost_the_others(monkeypatch, run, tmp_path, capsys):
    for name in ("a", "b", "c"):
        Image.fromarray(noise(24, 24)).save(tmp_path / f"{name}.png")
    data = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    files = [tmp_path / f"{name}.png" for name in ("a", "b", "c")]
    assert call(monkeypatch, run, *files, "--output", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert "b.png" in err and "Traceback" not in err and err.count("\n") == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a_x2.png", "c_x2.png"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_photo(run):
    """12 megapixels in less than 2 GiB above the idle process."""
    import resource

    enlarger = make_enlarger(load_model(run))
    small = noise(512, 512)
    enlarge_pixels(enlarger, small, tile=256)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = np.tile(small, (6, 8, 1))[:3000, :4000]
    out = enlarge_pixels(enlarger, large, tile=256)
    assert out.shape == (6000, 8000, 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (peak - idle) / 2**20 < 1
