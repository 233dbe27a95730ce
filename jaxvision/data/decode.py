"""One file to RGB: any kind of photograph that Pillow reads, turned upright."""

import os
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

OpenFile = BytesIO | BufferedReader

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """A file that is no readable photograph; the message is the reason alone."""


def open_image(file: str | Path | OpenFile) -> Image.Image:
    """One file as an upright RGB image.

    The pixels are those of torchvision's `ImageFolder`, `convert("RGB")`: alpha is
    dropped, not composited, and palette, grey and CMYK become RGB. It differs in two
    cases, where ImageFolder's pixels are wrong: the EXIF orientation is applied, and
    16-bit grey is scaled to 8 bits, where `convert` clips it to white.

    Args:
      file: its path, or an open file that can seek.

    Raises:
      UnreadableImageError: the file is missing, empty, truncated, no image, larger than
        Pillow's limit against decompression bombs, or of float or 32-bit pixels, whose
        range nobody knows.
    """
    try:
        if not isinstance(file, str | Path):
            return _decode(file)
        # Given the path, Pillow takes a tenth longer over a small photo.
        with open(file, "rb") as opened:
            return _decode(opened)
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files: OSError,
        # SyntaxError, struct.error, zlib.error, DecompressionBombError ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(" ".join(reason.split())) from error


def is_gray_file(path: str | Path) -> bool:
    """Whether an image file that can be read has one channel, or one beside alpha."""
    with Image.open(path) as image:
        return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _decode(file: OpenFile) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            upright = _to_rgb(image)
            turn = _UPRIGHT.get(_orientation(image))
    except UnidentifiedImageError:
        reason = "no image" if file.seek(0, os.SEEK_END) else "an empty file"
        raise UnreadableImageError(reason) from None
    return upright if turn is None else upright.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I, I;16, I;16B: 16-bit grey, or 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImageError(
                "32-bit pixels beyond 0..65535; save it as 8-bit"
            )
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels; save it as 8-bit")
    # A palette's transparency changes no RGB value, but convert() warns of it.
    image.info.pop("transparency", None)
    # convert() would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, of a loaded image: TIFF files Pillow turns on loading."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1
