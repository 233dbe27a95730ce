"""Small photographs on disk, sound and damaged, for the tests of the data."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.data import open_dataset

SIZES = {"train_size": 40, "eval_resize": 48, "eval_crop": 36}

MODES = {
    "rgb.jpg": ("RGB", {}),
    "grey.jpg": ("L", {}),
    "cmyk.jpg": ("CMYK", {}),
    "rgb.webp": ("RGB", {}),
    "rgb.bmp": ("RGB", {}),
    "rgb.ppm": ("RGB", {}),
    "grey.pgm": ("L", {}),
    "bits.png": ("1", {}),
    "palette.png": ("P", {}),
    "clear-palette.png": ("P", {"transparency": bytes(range(256))}),
    "alpha.png": ("RGBA", {}),
    "grey-alpha.png": ("LA", {}),
    "clear-grey.png": ("L", {"transparency": 7}),
    "cmyk.tif": ("CMYK", {}),
    "lzw.tiff": ("RGB", {"compression": "tiff_lzw"}),
    "lab.tif": ("LAB", {}),
}


def noise(height=50, width=61, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    ramp = (
        np.linspace(0, 127, width)[:, None] if channels else np.linspace(0, 127, width)
    )
    return (rng.integers(0, 128, shape) + ramp).astype(np.uint8)


def save(path, image=None, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        image = Image.fromarray(noise(seed=seed))
    image.save(path, **options)
    return path


def make_folder(root, counts, suffix=".png"):
    """`counts`: images by folder, `{"train/a": 3}`."""
    for seed, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            save(root / name / f"{index}{suffix}", seed=100 * seed + index)
    return str(root)


def in_mode(mode):
    """A photograph of this mode, with noise in every channel."""
    if mode in ("RGBA", "CMYK", "LA", "LAB"):
        pixels = noise(channels=len(mode))
        return Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    return Image.fromarray(noise()).convert(mode)


def bad_file(path, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "truncated.jpg":
        data = save(path).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "truncated.png":
        data = save(path).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "corrupt.png":
        data = bytearray(save(path).read_bytes())
        data[60:400] = bytes(340)
        path.write_bytes(data)
    elif kind == "text.jpg":
        path.write_text("<html>404</html>")
    elif kind == "empty.jpg":
        path.touch()
    elif kind == "float.tif":
        Image.fromarray(np.ones((9, 9), np.float32)).save(path)
    elif kind == "wide.tif":
        Image.fromarray(np.full((9, 9), 70000, np.int32)).save(path)
    return path


def check_error(spec, message):
    """`open_dataset` fails with one line that matches `message`."""
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(spec, **SIZES)
    assert "\n" not in str(caught.value)
