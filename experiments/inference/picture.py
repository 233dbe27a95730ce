"""An image file whose pixels are to be enlarged, and what else of it is kept."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from experiments.command.options import UsageError
from jaxvision.data.decode import UnreadableImageError, read_header
from jaxvision.files import regular_file

MODES = {
    "RGB": "RGB",
    "L": "L",
    "1": "L",
    "LA": "LA",
    "RGBA": "RGBA",
    "P": "RGB",
    "PA": "RGBA",
    "RGBX": "RGB",
}
"""Pixels that can be enlarged -> as what; a palette with transparency is RGBA."""


class Picture(NamedTuple):
    """An image file, upright.

    `pixels` is uint8 RGB, of a grey image three times the same, where it is transparent
    the nearest colour that shows; `alpha` its transparency; `form` the mode to write;
    `notes` what of the file is not kept.
    """

    pixels: np.ndarray
    alpha: Image.Image | None
    form: str
    profile: bytes | None
    notes: tuple[str, ...]


def read_picture(source: Path | BytesIO, name: str) -> Picture:
    """One image file, upright.

    Args:
      source: its path, or its content.
      name: what messages call it.

    Raises:
      UsageError: it is no image that can be enlarged; one line says why.
    """
    try:
        with opened(source, name) as file:
            notes = _notes(file)
            profile = file.info.get("icc_profile")
            file.load()
            image = _upright(file)
    except UsageError:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{name}: {' '.join(reason.split())}") from error
    check_mode(name, image.mode)
    form = "RGBA" if image.has_transparency_data else MODES[image.mode]
    if image.mode in ("L", "LA", "1") and form == "RGBA":
        form = "LA"
    image = image.convert(form)
    alpha = image.getchannel("A") if form.endswith("A") else None
    pixels = np.asarray(image.convert("RGB"))
    if alpha is not None:
        pixels = spread_visible(pixels, np.asarray(alpha))
    return Picture(pixels, alpha, form, profile, notes)


def spread_visible(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`(h, w, 3)`, what cannot be seen as the nearest pixel that can.

    Whatever colour a program left there, black mostly, would become part of the edges.
    """
    hidden = alpha == 0
    if hidden.all() or not hidden.any():
        return pixels
    nearest: Any = ndimage.distance_transform_edt(
        hidden, return_distances=False, return_indices=True
    )
    return pixels[tuple(nearest)]


@contextmanager
def opened(source: Path | BytesIO, name: str) -> Iterator[Image.Image]:
    """An image file, not decoded yet.

    Raises:
      UsageError: it is none, or cannot be read.
    """
    try:
        # Warnings of large images, which are welcome here, and of odd metadata.
        with (
            warnings.catch_warnings(action="ignore"),
            _open(source) as file,
            read_header(file) as image,
        ):
            yield image
    except (OSError, UnreadableImageError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name}: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata; the pixels are fine
        return image.copy()


def _notes(file: Image.Image) -> tuple[str, ...]:
    """What of a file just opened is not kept."""
    notes = []
    frames = getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":  # a phone's JPEG with further versions
        notes.append(f"the first of {frames} frames")
    # Pillow reads 16-bit colours as 8-bit ones; only the decoder's name tells.
    decoders = str(getattr(file, "tile", ""))
    if file.mode in ("RGB", "RGBA", "LA") and ";16" in decoders:
        notes.append("16 bits a colour became 8")
    return tuple(notes)


def check_mode(name: str, mode: str) -> None:
    """Raises UsageError for pixels that cannot be enlarged, with the cure."""
    if mode in MODES:
        return
    cures = {"CMYK": "convert it to RGB", "YCbCr": "convert it to RGB"}
    cure = cures.get(mode, "convert it to 8-bit grey or RGB")
    raise UsageError(f"{name} has pixels of the kind {mode}: {cure} first")


def composed(picture: Picture, pixels: np.ndarray, *, scale: int) -> Image.Image:
    """What is to be written: the enlarged pixels with what else there was."""
    image = Image.fromarray(pixels)
    if picture.form in ("L", "LA"):
        image = image.convert("L")
    if picture.alpha is not None:
        size = (scale * picture.alpha.width, scale * picture.alpha.height)
        image.putalpha(picture.alpha.resize(size, Image.Resampling.BICUBIC))
    return image


def _open(source: Path | BytesIO) -> BufferedReader | BytesIO:
    if isinstance(source, BytesIO):
        return source
    return open(source, "rb", opener=regular_file)
