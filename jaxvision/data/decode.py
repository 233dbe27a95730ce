"""One file to RGB: any kind of photograph that Pillow reads, turned upright."""

import importlib
import importlib.util
import os
from functools import cache, partial
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from jaxvision.data.storage import StorageError, patiently
from jaxvision.files import regular_file

OpenFile = BytesIO | BufferedReader

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "QOI": (".qoi",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Pillow's formats that a photograph may have, and their endings.

No other is ever tried, whatever a file is called: for some, Pillow starts another
program (EPS), and some have no mark that tells them from damaged files (TGA).
"""
NEEDS = {
    "AVIF": "pip install 'pillow>=11.3'",
    "HEIF": "pip install 'jaxvision[heif]'",
}
"""What lets a format be read that this Pillow does not."""
PIXELS_A_BYTE = 250_000
"""More pixels than any file holds by its size, blank ones of many megapixels too."""
BYTES_A_PIXEL = 16
"""More than a file needs for one: 8 where nothing is compressed, and what is beside."""
MAX_PIXELS = "JAXVISION_MAX_PIXELS"
"""The variable of the environment by which programs open larger photographs."""
TAKEN_AS = "taken as"
"""The key of `Image.info` under which stands how pixels were read whose range the file
does not say; none where it does."""

_DEPTHS = (8, 12, 16)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281
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


@cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that are read here. Call it before there are threads."""
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def extensions() -> tuple[str, ...]:
    """The endings of the files that are read here."""
    return tuple(ending for name in formats() for ending in FORMATS[name])


def set_pixel_limit() -> None:
    """Lets Pillow open photographs as large as `JAXVISION_MAX_PIXELS` says.

    Raises:
      ValueError: that is no number of pixels.
    """
    said = os.environ.get(MAX_PIXELS, "")
    if said and (not said.isdecimal() or int(said) < 1):
        raise ValueError(f"{MAX_PIXELS} is {said!r}: give it a number of pixels")
    if said:
        # Pillow warns from its own limit on, and refuses from twice that.
        Image.MAX_IMAGE_PIXELS = -(-int(said) // 2)


def open_image(file: str | Path | OpenFile) -> Image.Image:
    """One file as an upright RGB image.

    The pixels are those of torchvision's `ImageFolder`, `convert("RGB")`: alpha is
    dropped, not composited, and palette, grey and CMYK become RGB. It differs in two
    cases, where ImageFolder's pixels are wrong: the EXIF orientation is applied, and
    grey of more than 8 bits is scaled to 8, where `convert` clips it to white.

    By what it is scaled is what the file says. Where a file of 16 or 32 bits does not
    say how many of them are used, it is the smallest of 8, 12 and 16 that holds its
    largest value; where that is not 16, `info[TAKEN_AS]` tells.

    Args:
      file: its path, or an open file that can seek.

    Raises:
      UnreadableImageError: the file is missing, empty, truncated, no image or no file;
        larger than Pillow's limit against decompression bombs (`Image.MAX_IMAGE_PIXELS`
        and `set_pixel_limit`), or than its bytes can hold; of more bytes than a
        photograph within that limit can have; of float or 32-bit pixels, whose range
        nobody knows, or of 12-bit colours that 16 bits hold.
      StorageError: not the file, but what it lies on fails.
    """
    try:
        if not isinstance(file, str | Path):
            return _decode(file)
        # All bytes first: libtiff and OpenJPEG read by themselves and do not say why
        # they could not.
        return _decode(BytesIO(patiently(os.fspath(file), partial(content, file))))
    except (UnreadableImageError, StorageError):
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files: OSError,
        # SyntaxError, struct.error, zlib.error ...
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImageError(" ".join(reason.split())) from error


def read_header(file: OpenFile) -> Image.Image:
    """The image in an open file before it is decoded, as Pillow has it.

    Raises:
      UnreadableImageError: it is of none of `FORMATS`, or claims too many pixels.
    """
    try:
        image = Image.open(file, formats=formats())
    except UnidentifiedImageError:
        raise UnreadableImageError(_unknown(file)) from None
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{error} Allow it by {MAX_PIXELS}") from None
    # Before Pillow takes memory for what a few bytes claim.
    where = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(where)
    if image.width * image.height > PIXELS_A_BYTE * size:
        raise UnreadableImageError(
            f"{image.width} x {image.height} pixels in {size} bytes, which cannot hold "
            "them"
        )
    return image


def is_gray_file(path: str | Path) -> bool:
    """Whether an image file that can be read has one channel, or one beside alpha.

    Raises:
      StorageError: what it lies on fails.
    """

    def mode() -> str:
        with open(path, "rb", opener=regular_file) as file, read_header(file) as image:
            return image.mode

    found = patiently(os.fspath(path), mode)
    return found in ("1", "L", "LA") or found.startswith("I")


def content(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
      UnreadableImageError: they are more than any photograph's that may be opened.
      OSError: they cannot be read.
    """
    pixels = Image.MAX_IMAGE_PIXELS
    with open(path, "rb", opener=regular_file) as file:
        size = os.fstat(file.fileno()).st_size
        if pixels and size > 2 * pixels * BYTES_A_PIXEL:  # from twice on Pillow refuses
            raise UnreadableImageError(
                f"{size} bytes, more than a photograph of {2 * pixels} pixels can have."
                f" Allow it by {MAX_PIXELS}"
            )
        return file.read()


def _unknown(file: OpenFile) -> str:
    """Why a file is of none of the formats."""
    file.seek(0)
    head = file.read(16)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return f"a HEIC file: {NEEDS['HEIF']}"
    return "no image" if head else "an empty file"


def _decode(file: OpenFile) -> Image.Image:
    with read_header(file) as image:
        # Pillow reads 16-bit colours as 8-bit ones; only the decoder's name tells.
        is_deep = image.mode in ("RGB", "RGBA", "LA") and ";16" in _decoder(image)
        image.load()
        if is_deep:
            _check_deep(image)
        upright = _to_rgb(image)
        turn = _UPRIGHT.get(_orientation(image))
    return upright if turn is None else upright.transpose(turn)


def _decoder(image: Image.Image) -> str:
    """How Pillow is going to decode an image, for what to look for in it."""
    return str(getattr(image, "tile", ""))


def _check_deep(image: Image.Image) -> None:
    pixels = np.asarray(image)[..., : len(image.mode.rstrip("A"))]
    if 0 < pixels.max() < 16:  # the lower of two bytes is lost
        raise UnreadableImageError(
            "16-bit colours, none of them above 4095: nearly black, or of 12 bits; "
            "save it as 8-bit"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I, I;16, I;16B: 16-bit grey, or 32-bit integers
        image = _scaled(image)
    if image.mode == "F":
        raise UnreadableImageError("floating-point pixels; save it as 8-bit")
    # A palette's transparency changes no RGB value, but convert() warns of it.
    image.info.pop("transparency", None)
    # convert() would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def full_scale(image: Image.Image) -> int:
    """The value of white of loaded grey pixels of more than 8 bits.

    Raises:
      UnreadableImageError: they are beyond 16 bits.
    """
    values = np.asarray(image)
    largest = int(values.max())
    if values.min() < 0 or largest > 65535:
        raise UnreadableImageError("32-bit pixels beyond 0..65535; save it as 8-bit")
    said = _said_range(image) or 0
    if largest <= said > 0:
        return said
    return next(2**b - 1 for b in _DEPTHS if largest < 2**b)


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits as one of 8."""
    top = full_scale(image)
    levels = (np.arange(top + 1) * 255 + top // 2) // top
    scaled = Image.fromarray(levels.astype(np.uint8)[np.asarray(image)])
    if top < 65535 and top != _said_range(image):
        scaled.info[TAKEN_AS] = f"{top.bit_length()}-bit values in more bits"
    return scaled


def _said_range(image: Image.Image) -> int | None:
    """The largest value that grey of more than 8 bits can have, if the file says it."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        (bits, *_), most = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_MAX_SAMPLE_VALUE)
        if isinstance(most, tuple):
            most = most[0]
        if most and 0 < most <= 65535:
            return int(most)
        return 2**bits - 1 if 8 < bits < 16 else None
    # Of all others but PNG, Pillow gives the values scaled to 16 bits.
    return None if image.format == "PNG" else 65535


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, of a loaded image: TIFF files Pillow turns on loading."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1
