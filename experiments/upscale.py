"""Makes photographs of one's own larger with a trained model.

python -m experiments.upscale IMAGE_OR_FOLDER...
python -m experiments.upscale IMAGE_OR_FOLDER... --scale 4 --output DIR
python -m experiments.upscale IMAGE_OR_FOLDER... --model RUN
"""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage
from tyro.conf import Positional, arg

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.enlarger import enlarge_pixels, make_enlarger
from experiments.inference.inputs import find_images
from experiments.inference.trained import open_network
from jaxvision.data.decode import UnreadableImageError, read_header
from jaxvision.files import atomic_path, regular_file

MODULE = "experiments.upscale"
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": (".jpg", {"quality": 95, "subsampling": 0}),
    "MPO": (".jpg", {"format": "JPEG", "quality": 95, "subsampling": 0}),
    "PNG": (".png", {}),
    "WEBP": (".webp", {"quality": 95, "method": 4}),
    "TIFF": (".tif", {"compression": "tiff_deflate"}),
}
"""What `--format same` writes, by the format that was read; any other becomes PNG."""
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
LONGEST = {".jpg": 65500, ".webp": 16383}
"""Most pixels a side that a format holds, or its writer takes."""


@dataclass(frozen=True)
class Config:
    """Makes photographs larger with a trained model.

    The orientation that a camera noted is applied; transparency and the colour profile
    are kept, other metadata is not. The result is OUTPUT/NAME_x2.png.
    """

    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE_OR_FOLDER...")
    ] = ()
    """Image files, and folders whose images are taken, those below them too."""
    model: str = "light"
    """light, which comes with the program; or the folder of a run of
    experiments.superres, or its model.safetensors."""
    scale: Literal[2, 3, 4] | None = None
    """How many times larger; by default 2, or what the run was trained for."""
    output: Path = Path("enlarged")
    """The folder to write to; it is made where it is missing."""
    format: Literal["png", "same"] = "png"
    """same: JPEG, WebP (both at quality 95) and TIFF stay what they are."""
    overwrite: bool = False
    """Replace files in the output folder; never the images themselves."""
    tile: int = 256
    """Side in pixels of the tiles that are computed one by one; larger ones take more
    memory."""


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


def main(config: Config) -> list[Path]:
    """Writes the enlarged images and returns their paths.

    Raises:
      UsageError: an option is wrong, or a file cannot be enlarged; nothing is written.
      RunError: a file turned out to be damaged; the others are written.
    """
    console = Console()
    enlarger = make_enlarger(open_network(config.model, scale=config.scale))
    scale = enlarger.scale
    if config.tile <= 2 * enlarger.halo:
        raise UsageError(
            f"--tile cannot be {config.tile}: this model needs more than "
            f"{2 * enlarger.halo}"
        )
    targets = _targets(config, scale=scale, console=console)
    try:
        config.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {config.output}: {error.strerror}") from error
    failed = []
    for source, target in targets.items():
        try:
            picture = read_picture(source)
        except UsageError as error:
            failed.append(str(error))
            continue
        begun = time.perf_counter()
        with console.progress(source.name) as show:
            pixels = enlarge_pixels(
                enlarger,
                picture.pixels,
                tile=config.tile,
                progress=lambda done, total, s=source: show(s.name, done, total, ""),
            )
            show(f"writing {target.name}", 1, 1, "")  # seconds, of a large photo
            _write(picture, pixels, target, scale)
        height, width = picture.pixels.shape[:2]
        console.say(
            f"{target}: {width} x {height} to {scale * width} x {scale * height} "
            f"pixels in {time.perf_counter() - begun:.1f} s"
            + "".join(f"; {note}" for note in picture.notes)
        )
    if failed:
        raise RunError("; ".join(failed))
    return list(targets.values())


def read_picture(path: Path) -> Picture:
    """One image file, upright.

    Raises:
      UsageError: it is no image that can be enlarged; one line says why.
    """
    try:
        with _opened(path) as file:
            notes = _notes(file)
            profile = file.info.get("icc_profile")
            file.load()
            image = _upright(file)
    except UsageError:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on damaged files.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(f"{path}: {' '.join(reason.split())}") from error
    _check_mode(path, image.mode)
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
def _opened(path: Path) -> Iterator[Image.Image]:
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


def _check_mode(path: Path, mode: str) -> None:
    if mode in MODES:
        return
    cures = {"CMYK": "convert it to RGB", "YCbCr": "convert it to RGB"}
    cure = cures.get(mode, "convert it to 8-bit grey or RGB")
    raise UsageError(f"{path} has pixels of the kind {mode}: {cure} first")


def _targets(config: Config, *, scale: int, console: Console) -> dict[Path, Path]:
    """Where each image goes.

    Raises:
      UsageError: a file is missing, no image, or would be overwritten.
    """
    targets: dict[Path, Path] = {}
    for source in find_images(config.images, console=console):
        with _opened(source) as file:
            mode, kind, longest = file.mode, file.format or "", max(file.size)
        _check_mode(source, mode)
        same = config.format == "same" and kind in FORMATS
        suffix = FORMATS[kind][0] if same else ".png"
        if scale * longest > LONGEST.get(suffix, scale * longest):
            raise UsageError(
                f"{source}: {kind} files have at most {LONGEST[suffix]} pixels a side, "
                f"and this would have {scale * longest}: use --format png"
            )
        target = config.output / f"{source.stem}_x{scale}{suffix}"
        if len(os.fsencode(target.name)) > 255:
            raise UsageError(
                f"{source} would become {target}, and no name has more than 255 bytes: "
                "give it a shorter one"
            )
        for other, taken in targets.items():
            if taken == target:
                raise UsageError(
                    f"{other} and {source} would both become {target}: enlarge them "
                    "into two folders"
                )
        targets[source] = target
    sources = {source.resolve() for source in targets}
    for target in targets.values():
        if target.resolve() in sources:
            raise UsageError(
                f"{target} is one of the images: give another --output folder"
            )
        if target.exists() and not config.overwrite:
            raise UsageError(
                f"{target} exists: give another --output folder or --overwrite"
            )
    return targets


def _write(picture: Picture, pixels: np.ndarray, target: Path, scale: int) -> None:
    image = Image.fromarray(pixels)
    if picture.form in ("L", "LA"):
        image = image.convert("L")
    if picture.alpha is not None:
        size = (scale * picture.alpha.width, scale * picture.alpha.height)
        image.putalpha(picture.alpha.resize(size, Image.Resampling.BICUBIC))
    options = next(
        options for suffix, options in FORMATS.values() if suffix == target.suffix
    )
    with atomic_path(target) as temporary:
        image.save(temporary, icc_profile=picture.profile, **options)


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
