"""Makes photographs of one's own larger with a trained model.

python -m experiments.upscale IMAGE_OR_FOLDER...
python -m experiments.upscale IMAGE_OR_FOLDER... --scale 4 --output DIR
python -m experiments.upscale IMAGE_OR_FOLDER... --model RUN
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.enlarger import enlarge_pixels, make_enlarger
from experiments.inference.inputs import find_images
from experiments.inference.picture import (
    FORMATS,
    check_mode,
    opened,
    read_picture,
    write_picture,
)
from experiments.inference.trained import open_network

MODULE = "experiments.upscale"
LONGEST = {".jpg": 65500, ".webp": 16383}
"""Most pixels a side that a format holds, or its writer takes."""


@dataclass(frozen=True)
class Config:
    """Makes photographs larger with a trained model.

    The orientation that a camera noted is applied; transparency, 16 bits a colour, the
    colour profile and what was noted of the photo (EXIF, its place too) are kept. The
    result is OUTPUT/NAME_x2.png.
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
                top=picture.top,
                progress=lambda done, total, s=source: show(s.name, done, total, ""),
            )
            show(f"writing {target.name}", 1, 1, "")  # seconds, of a large photo
            write_picture(picture, pixels, target)
        height, width = picture.pixels.shape[:2]
        console.say(
            f"{target}: {width} x {height} to {scale * width} x {scale * height} "
            f"pixels in {time.perf_counter() - begun:.1f} s"
            + "".join(f"; {note}" for note in picture.notes)
        )
    if failed:
        raise RunError("; ".join(failed))
    return list(targets.values())


def _targets(config: Config, *, scale: int, console: Console) -> dict[Path, Path]:
    """Where each image goes.

    Raises:
      UsageError: a file is missing, no image, or would be overwritten.
    """
    targets: dict[Path, Path] = {}
    for source in find_images(config.images, console=console):
        with opened(source) as file:
            mode, kind, longest = file.mode, file.format or "", max(file.size)
        check_mode(source, mode)
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


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
