"""What all pictures share: colours, short names, and how a figure becomes a file."""

import io
import re
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxvision.files import atomic_path

INK, QUIET, LINE = "#1b2430", "#5c6775", "#dfe3e8"
BAD = "#a3330b"
TRAIN, VAL = "#d9772b", "#1f66b0"
RIGHT = LinearSegmentedColormap.from_list("right", ["#dbe9f7", "#6ea6dc", "#0b3d7a"])
WRONG = LinearSegmentedColormap.from_list("wrong", ["#fce5d6", "#f0954f", "#a3330b"])

VARIABLES = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
    TRAIN: "var(--train)",
    VAL: "var(--val)",
}
"""Colour in a picture -> CSS variable in a page: curves suit a dark page as well."""

LONGEST_NAME = 24


def short(name: str, *, longest: int = LONGEST_NAME) -> str:
    """`name` on one line, its middle left out where it is long."""
    # A file name that is no UTF-8 holds surrogates, which no font can draw.
    name = " ".join(name.encode("utf-8", "replace").decode("utf-8").split())
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[: longest - 1 - head]}…{name[-head:]}"


def readable_on(colour: np.ndarray) -> str:
    """Black or white, whichever stands out more from an sRGB `colour` (WCAG 2)."""
    rgb = np.asarray(colour[:3], float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def save(figure: Figure, path: str | Path, *, dpi: int) -> None:
    """Writes the figure as a picture on white, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure, dpi=dpi))


def png(figure: Figure, *, dpi: int) -> bytes:
    """The figure as a PNG file's content, on white."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that the font lacks shows as boxes, not as a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure, *, salt: str) -> str:
    """The figure as an `<svg>` element for a page."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    # The salt makes the ids inside differ from picture to picture, and not from run
    # to run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    # Names of groups, such as axes_1, would occur again in the page's next picture.
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    return text[text.index("<svg") :]
