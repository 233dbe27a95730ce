"""Photos inside a page: small JPEGs as data URIs, and heat laid over them."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

HEAT = matplotlib.colormaps["inferno"]


def data_uri(kind: str, data: bytes) -> str:
    """A file's content as the address of itself; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def jpeg(image: np.ndarray, *, longest: int | None = None, quality: int = 88) -> str:
    """A photo, uint8 `(h, w, 3)`, as a data URI, no side longer than `longest`."""
    picture = Image.fromarray(image)
    if longest is not None:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return data_uri("image/jpeg", buffer.getvalue())


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A photo in grey with the heat over it, brightest where that is 1.

    Args:
      image: uint8 `(h, w, 3)`.
      heat: `(height, width)` in [0, 1]; the photo is resized to it.

    Returns:
      uint8 `(height, width, 3)`.
    """
    height, width = heat.shape
    grey = Image.fromarray(image).convert("L")
    if grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BICUBIC)
    ground = np.asarray(grey, np.float64)[..., None]
    # Where nothing speaks for the class the photo stays as it is, only grey.
    strength = 0.75 * np.clip(heat, 0, 1)[..., None]
    colour = 255 * HEAT(0.25 + 0.75 * np.clip(heat, 0, 1))[..., :3]
    mixed = (1 - strength) * ground + strength * colour
    return np.round(mixed).astype(np.uint8)
