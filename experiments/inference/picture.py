"""Image files of any kind as pixels to enlarge, and back: nothing is lost unsaid."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps
from scipy import ndimage

from experiments.command.options import UsageError
from jaxvision.data.decode import UnreadableImageError, full_scale, read_header
from jaxvision.files import atomic_path, regular_file

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": (".jpg", {"quality": 95, "subsampling": 0}),
    "MPO": (".jpg", {"format": "JPEG", "quality": 95, "subsampling": 0}),
    "PNG": (".png", {}),
    "WEBP": (".webp", {"quality": 95, "method": 4}),
    "TIFF": (".tif", {"compression": "tiff_deflate"}),
}
"""What is written of a file that shall stay what it is, by its format; any other
becomes PNG."""
GRAY = ("1", "L", "LA", "La")
NO_COLOURS = {"F": "floating-point pixels"}
"""Pixels that are no colours until somebody says which."""
DESCRIPTIVE = (
    *(0x010D, 0x010E, 0x010F, 0x0110),  # document, description, make, model
    *(0x0131, 0x0132, 0x013B, 0x013C, 0x8298),  # software, date, artist, copyright
    *(0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # ratings and titles
)
"""The EXIF tags that are true of a larger image too; those of its layout are not."""
CAMERA, PLACE = 0x8769, 0x8825
_ORIENTATION, _WIDTH, _HEIGHT, _INTEROPERABILITY = 0x0112, 0xA002, 0xA003, 0xA005
_DEEP = {2: "LA", 3: "RGB", 4: "RGBA"}
_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_ROWS = 64
"""Rows of a PNG that are compressed at a time."""


class Picture(NamedTuple):
    """An image file, upright.

    Attributes:
      pixels: uint8 or uint16 RGB, of a grey image three times the same; where it is
        transparent, the nearest colour that shows.
      alpha: its transparency, of the same type, `(h, w)`.
      form: the mode to write: L, LA, RGB or RGBA.
      top: the value of white.
      profile: its colour profile.
      exif: what a camera or a person noted, without what the size changes.
      notes: what of the file is not kept.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    form: str
    top: int
    profile: bytes | None
    exif: Image.Exif
    notes: tuple[str, ...]


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file, not decoded yet.

    Raises:
      UsageError: it is none, or cannot be read.
    """
    try:
        # Warnings of large images, which are welcome here, and of odd metadata.
        with (
            warnings.catch_warnings(action="ignore"),
            open(path, "rb", opener=regular_file) as file,
            read_header(file) as image,
        ):
            yield image
    except (OSError, UnreadableImageError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: {reason}") from error


def check_mode(path: Path, mode: str) -> None:
    """Raises UsageError for an image whose pixels are no colours."""
    if mode in NO_COLOURS:
        raise UsageError(
            f"{path} has {NO_COLOURS[mode]}: convert it to 8 or 16 bits first"
        )


def read_picture(path: Path) -> Picture:
    """One image file, upright.

    Raises:
      UsageError: it is no image that can be enlarged; one line says why.
    """
    try:
        with opened(path) as file:
            check_mode(path, file.mode)
            return _read(path, file)
    except UsageError:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{path}: {' '.join(reason.split())}") from error


def _read(path: Path, file: Image.Image) -> Picture:
    notes = _frames(file)
    # Pillow reads 16-bit colours as 8-bit ones; only the decoder's name tells, and it
    # is gone once the metadata of a PNG were read.
    is_deep = file.mode in ("RGB", "RGBA", "LA") and ";16" in str(
        getattr(file, "tile", "")
    )
    profile, exif = file.info.get("icc_profile"), _exif(file)
    orientation = _orientation(file)
    file.load()
    top = 255
    if file.mode.startswith("I"):  # grey of more than 8 bits
        top = full_scale(file)
        image = _upright(file)
        kind = np.uint8 if top == 255 else np.uint16
        pixels, form = np.asarray(image).astype(kind)[..., None], "L"
    elif is_deep and (deep := _read_deep(path, file.format)) is not None:
        top = 65535
        pixels, form = _turned(deep, orientation), _DEEP[deep.shape[2]]
    else:
        if is_deep:
            notes.append(
                "16 bits a colour became 8: pip install 'jaxvision[deep]' keeps them"
            )
        image = _upright(file)
        form = _form(image.mode, image.has_transparency_data)
        if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
            notes.append(f"{image.mode} became RGB")
            image, profile = _to_rgb(image, profile), None  # that of other colours
        pixels = np.atleast_3d(np.asarray(image.convert(form)))
    alpha = np.ascontiguousarray(pixels[..., -1]) if form.endswith("A") else None
    colours = pixels[..., : pixels.shape[2] - (alpha is not None)]
    colours = np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))
    if alpha is not None:
        colours = spread_visible(colours, alpha)
    return Picture(colours, alpha, form, top, profile, exif, tuple(notes))


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Other colours as sRGB: printing inks by their profile, where they have one."""
    if image.mode == "CMYK" and profile:
        inks, screen = io.BytesIO(profile), ImageCms.createProfile("sRGB")
        with suppress(ImageCms.PyCMSError):  # a profile of no use
            made = ImageCms.profileToProfile(image, inks, screen, outputMode="RGB")
            assert made is not None
            return made
    return image.convert("RGB")


def _form(mode: str, is_transparent: bool) -> str:
    gray = "L" if mode in GRAY else "RGB"
    return gray + "A" * (is_transparent or mode.endswith(("A", "a")))


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


def write_picture(picture: Picture, pixels: np.ndarray, target: Path) -> None:
    """Writes the enlarged `pixels` as what the picture was.

    Args:
      picture: where they come from.
      pixels: `(scale * h, scale * w, 3)`, of the picture's type.
      target: the file; its ending says the format.
    """
    height, width = pixels.shape[:2]
    alpha = None
    if picture.alpha is not None:
        alpha = _enlarged_alpha(picture.alpha, (width, height), top=picture.top)
    exif = picture.exif
    if camera := exif.get_ifd(CAMERA):
        camera.update({_WIDTH: width, _HEIGHT: height})
    if picture.top > 255:
        layers = pixels
        if picture.form in ("L", "LA"):
            layers = np.round(pixels @ [0.299, 0.587, 0.114]).astype("u2")[..., None]
        if alpha is not None:
            layers = np.concatenate([layers, alpha[..., None]], 2)
        with atomic_path(target) as temporary:
            write = _write_tiff if target.suffix == ".tif" else _write_png
            write(temporary, layers, picture)
        return
    image = Image.fromarray(pixels)
    if picture.form in ("L", "LA"):
        image = image.convert("L")
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    options: dict[str, Any] = dict(
        next(taken for suffix, taken in FORMATS.values() if suffix == target.suffix)
    )
    if len(exif):
        options["exif"] = exif
        # Pillow's libtiff writes no folders of tags.
        if camera or exif.get_ifd(PLACE):
            options.pop("compression", None)
    with atomic_path(target) as temporary:
        image.save(temporary, icc_profile=picture.profile, **options)


def _enlarged_alpha(alpha: np.ndarray, size: tuple[int, int], *, top: int):
    bicubic = Image.Resampling.BICUBIC
    if top == 255:
        return np.asarray(Image.fromarray(alpha).resize(size, bicubic))
    large = Image.fromarray(alpha.astype(np.float32)).resize(size, bicubic)
    return np.clip(np.round(np.asarray(large)), 0, top).astype(np.uint16)


def _write_png(path: Path, layers: np.ndarray, picture: Picture) -> None:
    """A PNG of 16 bits, `(h, w, 1 to 4)`, which Pillow writes of grey alone."""
    height, width, count = layers.shape
    colours = _PNG_COLOURS[count]
    header = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    with open(path, "wb") as file:

        def write(kind: bytes, data: bytes) -> None:
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(kind + data)))

        file.write(b"\x89PNG\r\n\x1a\n")
        write(b"IHDR", header)
        if picture.profile:
            write(b"iCCP", b"ICC\0\0" + zlib.compress(picture.profile))
        if len(picture.exif):
            write(b"eXIf", picture.exif.tobytes().removeprefix(b"Exif\0\0"))
        packed, last = zlib.compressobj(6), np.zeros((1, 2 * width * count), np.uint8)
        for start in range(0, height, _ROWS):
            rows = layers[start : start + _ROWS].astype(">u2")
            raw = rows.view(np.uint8).reshape(len(rows), -1)
            # Filter 2: what is above is taken off, byte by byte.
            above = np.concatenate([last, raw[:-1]])
            filtered = np.insert(raw - above, 0, 2, axis=1)
            write(b"IDAT", packed.compress(filtered.tobytes()))
            last = raw[-1:]
        write(b"IDAT", packed.flush())
        write(b"IEND", b"")


def _write_tiff(path: Path, layers: np.ndarray, picture: Picture) -> None:
    """A TIFF of 16 bits a colour, which Pillow does not write."""
    import tifffile

    tifffile.imwrite(
        path,
        layers[..., 0] if layers.shape[2] == 1 else layers,
        photometric="rgb" if layers.shape[2] > 2 else "minisblack",
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        planarconfig="contig" if layers.shape[2] > 1 else None,
        compression="zlib",
        iccprofile=picture.profile,
        metadata=None,
    )


def _read_deep(path: Path, kind: str | None) -> np.ndarray | None:
    """The pixels of a file of 16 bits a colour, `(h, w, 2 to 4)`.

    None where what reads them is not installed, or knows no such file.
    """
    try:
        if kind == "PNG":
            import imagecodecs

            pixels = imagecodecs.png_decode(path.read_bytes())
        else:
            import tifffile

            pixels = tifffile.imread(path, key=0)
    except (ModuleNotFoundError, KeyError):  # what tifffile lacks imagecodecs for
        return None
    usual = pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4)
    return pixels if usual and pixels.dtype == np.uint16 else None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels upright, as EXIF's orientation says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata; the pixels are fine
        return image.copy()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata; the pixels are fine
        return 1


def _exif(image: Image.Image) -> Image.Exif:
    """What stays true of the file's EXIF; nothing where it is damaged."""
    kept = Image.Exif()
    try:
        found = image.getexif()
        for tag in DESCRIPTIVE:
            if tag in found:
                kept[tag] = found[tag]
        for tag in (CAMERA, PLACE):
            if inside := dict(found.get_ifd(tag)):
                inside.pop(_INTEROPERABILITY, None)
                kept.get_ifd(tag).update(inside)
                kept[tag] = kept.get_ifd(tag)
        kept.tobytes()
    except Exception:
        return Image.Exif()
    return kept


def _frames(file: Image.Image) -> list[str]:
    """That there are more of them than the first, which is enlarged."""
    frames = getattr(file, "n_frames", 1)
    # A phone's JPEG may have further versions.
    is_more = frames > 1 and file.format != "MPO"
    return [f"the first of {frames} frames"] * is_more
