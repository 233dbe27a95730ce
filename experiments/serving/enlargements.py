"""A network that enlarges photos, as a service: `POST /enlarge`."""

from io import BytesIO

import numpy as np
from PIL import Image

from experiments.command.options import UsageError
from experiments.inference.enlarger import enlarge_pixels, make_enlarger
from experiments.inference.picture import Picture, encode_picture, opened, read_picture
from experiments.inference.trained import open_network
from experiments.serving.service import RefusedError, Reply, Service, Upload
from jaxvision.data import Progress

TILE = 256
"""Side in pixels of the tiles, as `upscale` has them."""
LARGEST = 100_000_000
"""Pixels of a picture that a page can show."""


def _check_size(name: str, pixels: int) -> None:
    if pixels > LARGEST:
        raise RefusedError(
            413,
            f"{name} would have {pixels / 1e6:.0f} megapixels, and a page shows "
            f"{LARGEST / 1e6:.0f}: use python -m experiments.upscale",
        )


def enlarger_service(model: str, *, scale: int | None) -> Service:
    """The enlargements of a run or of a network that comes with the programs.

    Args:
      model: one of `trained_names()`, a run's folder, or its `model.safetensors`.
      scale: see `open_network`.

    Raises:
      UsageError: there is none, or it is for another scale.
    """
    network = open_network(model, scale=scale)
    enlarger = make_enlarger(network)
    times = enlarger.scale

    def answer(upload: Upload) -> Reply:
        """A PNG; with `?by=bicubic` by that, to compare."""
        try:
            # Before all of it is decoded.
            with opened(upload.data, name=upload.name) as file:
                _check_size(upload.name, times**2 * file.width * file.height)
            picture = read_picture(upload.data, name=upload.name)
        except UsageError as error:
            raise RefusedError(400, str(error)) from error
        height, width = (times * side for side in picture.pixels.shape[:2])
        if upload.wishes.get("by") == "bicubic":
            picture = _shown(picture)
            small = Image.fromarray(picture.pixels)
            large = small.resize((width, height), Image.Resampling.BICUBIC)
            pixels = np.asarray(large)
        else:
            pixels = enlarge_pixels(
                enlarger,
                picture.pixels,
                tile=TILE,
                top=picture.top,
                progress=_unless_gone(upload),
            )
        buffer = BytesIO()
        encode_picture(picture, pixels, buffer, ending=".png")
        return Reply("image/png", buffer.getvalue())

    def warm() -> None:
        enlarge_pixels(enlarger, np.zeros((TILE, TILE, 3), np.uint8), tile=TILE)

    return Service(
        about={
            "task": "enlarge",
            "net": model,
            "scale": times,
            "facts": {"At most": f"{LARGEST / 1e6:.0f} megapixels afterwards"},
        },
        answers={"/enlarge": answer},
        warm=warm,
    )


def _shown(picture: Picture) -> Picture:
    """With 8 bits a colour, which is what Pillow enlarges."""
    if picture.top == 255:
        return picture

    def levels(values: np.ndarray) -> np.ndarray:
        return np.round(values * (255 / picture.top)).astype(np.uint8)

    alpha = None if picture.alpha is None else levels(picture.alpha)
    return picture._replace(pixels=levels(picture.pixels), alpha=alpha, top=255)


def _unless_gone(upload: Upload) -> Progress:
    """Ends the work between two tiles when nobody waits for it."""

    def look(done: int, total: int) -> None:
        del done, total
        if upload.is_gone():
            raise RefusedError(499, "nobody waits for it any more")

    return look
