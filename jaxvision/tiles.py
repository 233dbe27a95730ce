"""Large photographs in tiles: the memory of one tile, the result of the whole.

A network that pads with zeros sees the border of its input, at every layer. So each
tile keeps a halo that is computed and thrown away; but the tiles at the edge of the
photograph end where it ends, and their border is the photograph's own. All tiles have
one size, which is compiled once: the last ones are moved inwards and overlap more.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvision.data import Progress
from jaxvision.typing import Array, Shaped


class Span(NamedTuple):
    """One tile along one axis, in pixels of the photograph.

    It reads `start .. start + length`, and of what it makes of them, `keep_from ..
    keep_to` is kept.
    """

    start: int
    length: int
    keep_from: int
    keep_to: int


def spans(size: int, *, tile: int, halo: int) -> list[Span]:
    """Tiles of one length that cover `size` pixels, each pixel kept once.

    What is kept lies `halo` pixels or more from the tile's ends, except where these are
    the photograph's.

    Raises:
      ValueError: a tile is nothing but halo.
    """
    if size <= tile:
        return [Span(0, size, 0, size)]
    step = tile - 2 * halo
    if step < 1:
        raise ValueError(
            f"a tile of {tile} pixels has nothing but a halo of {halo} on each side: "
            f"give at least {2 * halo + 1}"
        )
    found: list[Span] = []
    done = 0
    while done < size:
        # Moved inwards, the last tile still has its halo before `done`.
        start = min(max(done - halo, 0), size - tile)
        end = size if start + tile == size else start + tile - halo
        found.append(Span(start, tile, done, end))
        done = end
    return found


def map_tiles(
    fn: Callable[[np.ndarray], Array | np.ndarray],
    image: Shaped[np.ndarray, "h w c"],
    *,
    tile: int,
    halo: int,
    scale: int = 1,
    progress: Progress | None = None,
) -> Shaped[np.ndarray, "out_h out_w out_c"]:
    """`fn` of the whole image, computed tile by tile.

    Args:
      fn: from `(1, h, w, c)` to `(1, scale * h, scale * w, out_c)`; where it is
        compiled, once for all tiles. It is given uint8 where the image is.
      image: of any size; a side shorter than the tile makes the tile shorter.
      tile: side of the tiles, in pixels of `image`.
      halo: how many pixels of `image` away a pixel still matters to `fn`, rounded up.
      scale: how many times larger the result is.
      progress: called with (done, total) after each tile.

    Raises:
      ValueError: a tile is nothing but halo, or the result has another size.
    """
    height, width = image.shape[:2]
    rows = spans(height, tile=tile, halo=halo)
    columns = spans(width, tile=tile, halo=halo)
    out: np.ndarray | None = None
    for index, (row, column) in enumerate((r, c) for r in rows for c in columns):
        part = image[
            row.start : row.start + row.length,
            column.start : column.start + column.length,
        ]
        made = np.asarray(fn(np.ascontiguousarray(part)[None]))[0]
        if made.shape[:2] != (scale * row.length, scale * column.length):
            raise ValueError(
                f"fn made {made.shape[:2]} pixels of {part.shape[:2]}: the scale is "
                f"not {scale}"
            )
        if out is None:
            shape = (scale * height, scale * width, *made.shape[2:])
            out = np.empty(shape, made.dtype)
        (top, made_top), (left, made_left) = _slices(row, scale), _slices(column, scale)
        out[top, left] = made[made_top, made_left]
        if progress is not None:
            progress(index + 1, len(rows) * len(columns))
    assert out is not None
    return out


def _slices(span: Span, scale: int) -> tuple[slice, slice]:
    """Where the kept part lies in the result, and in what the tile became."""
    low, high = scale * span.keep_from, scale * span.keep_to
    shift = scale * span.start
    return slice(low, high), slice(low - shift, high - shift)
