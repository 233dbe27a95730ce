"""What saving as JPEG and opening again does to images, computed on the device.

Bit for bit what libjpeg does, which is inside Pillow: all is whole numbers. Colours
become luma and chroma, the chroma is halved, blocks of 8 x 8 are transformed, divided
by the table of a quality and rounded; and back.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxvision.preprocess import to_float
from jaxvision.typing import Array, Float, Images

Quality = Float[Array, "n"]

LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
"""By what the luma's coefficients are divided at quality 50. ITU-T T.81, table K.1."""
CHROMA_TABLE = np.full((8, 8), 99, np.int32)
"""Likewise the chroma's, table K.2."""
CHROMA_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
_BITS = 13
"""Behind the point of the transforms' constants."""
_EXTRA = 2
"""Bits more that are kept between rows and columns."""
_FIRST, _SECOND, _THIRD = 4433, 6270, -15137  # 0.541, 0.765, -1.848
_ODD = (2446, 16819, 25172, 12299)  # 0.299, 2.053, 3.073, 1.501
_SUMS = (-7373, -20995, -16069, -3196)  # -0.900, -2.563, -1.962, -0.390
_ALL = 9633  # 1.176


def jpeg(
    images: Images, quality: Quality, *, chroma_halved: bool = True
) -> Float[Array, "n h w 3"]:
    """RGB images as they come back from a baseline JPEG file.

    Args:
      images: `(n, h, w, 3)` in `[0, 1]`; rounded to 8 bits first.
      quality: of each, 1 to 100, as Pillow's `quality`; whole.
      chroma_halved: 4:2:0, Pillow's default; otherwise 4:4:4.

    Returns:
      Floats `k / 255`. Reference: libjpeg's `jccolor.c`, `jcsample.c`, `jfdctint.c`,
      `jcdctmgr.c`, `jidctint.c`, `jdsample.c` and `jdcolor.c`.
    """
    _, height, width, _ = images.shape
    levels = jnp.round(jnp.clip(images, 0, 1) * 255).astype(jnp.int32)
    room = [(0, 0), (0, -height % 16), (0, -width % 16), (0, 0)]
    luma, chroma = _to_ycc(jnp.pad(levels, room, mode="edge"))
    luma = _through_blocks(luma, _table(LUMA_TABLE, quality))
    table = _table(CHROMA_TABLE, quality)
    if chroma_halved:
        chroma = _through_blocks(_halved(chroma), table)
        chroma = _doubled(chroma[:, : -(-height // 2), : -(-width // 2)])
    else:
        chroma = _through_blocks(chroma, table)
    both = (plane[:, :height, :width] for plane in (luma, chroma))
    return to_float(_to_rgb(*both).astype(jnp.uint8))


def _fixed(number: float) -> int:
    return int(number * 65536 + 0.5)


def _to_ycc(levels: Array) -> tuple[Array, Array]:
    """Luma `(n, h, w, 1)` and chroma `(n, h, w, 2)`, 0 to 255."""
    half = _fixed(0.5)

    def plane(shares: Sequence[int], offset: int) -> Array:
        parts = (levels[..., i] * share for i, share in enumerate(shares))
        return sum(parts, jnp.int32(offset)) >> 16

    luma = plane([_fixed(0.299), _fixed(0.587), _fixed(0.114)], half)
    middle = (128 << 16) + half - 1
    blue = plane([-_fixed(0.168735892), -_fixed(0.331264108), half], middle)
    red = plane([half, -_fixed(0.418687589), -_fixed(0.081312411)], middle)
    return luma[..., None], jnp.stack([blue, red], -1)


def _to_rgb(luma: Array, chroma: Array) -> Array:
    half = _fixed(0.5)
    blue, red = (chroma[..., i : i + 1] - 128 for i in range(2))
    green = -_fixed(0.34414) * blue + half - _fixed(0.71414) * red
    parts = (
        luma + ((_fixed(1.402) * red + half) >> 16),
        luma + (green >> 16),
        luma + ((_fixed(1.772) * blue + half) >> 16),
    )
    return jnp.clip(jnp.concatenate(parts, -1), 0, 255)


def _table(table: np.ndarray, quality: Array) -> Array:
    """The divisors at each quality, `(n, 8, 8)`."""
    quality = jnp.clip(jnp.round(quality), 1, 100).astype(jnp.int32)
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((table[None] * percent[:, None, None] + 50) // 100, 1, 255)


def _through_blocks(planes: Array, table: Array) -> Array:
    """Planes after the transform, rounding and the transform back."""
    sides = {"a": 8, "b": 8}
    blocks = rearrange(planes, "n (h a) (w b) c -> n h w c a b", **sides) - 128
    rows = _forward(blocks, -1, keep=_EXTRA)
    values = _forward(rows, -2, keep=-_EXTRA)
    # They are eight times the coefficients. To the nearest, halves away from zero.
    steps = 8 * table[:, None, None, None]
    whole = jnp.sign(values) * ((abs(values) + steps // 2) // steps)
    columns = _back(whole * table[:, None, None, None], -2, drop=_BITS - _EXTRA)
    levels = _back(columns, -1, drop=_BITS + _EXTRA + 3)
    return rearrange(jnp.clip(levels + 128, 0, 255), "n h w c a b -> n (h a) (w b) c")


def _rounded(x: Array, bits: int) -> Array:
    return (x + (1 << (bits - 1))) >> bits


def _split(x: Array, axis: int) -> list[Array]:
    return [jnp.take(x, i, axis) for i in range(8)]


def _forward(x: Array, axis: int, *, keep: int) -> Array:
    """The transform along an axis; `keep` bits more than whole numbers, or fewer."""
    d = _split(x, axis)
    sums = [d[i] + d[7 - i] for i in range(4)]
    odd = [d[3 - i] - d[4 + i] for i in range(4)]
    outer, inner = sums[0] + sums[3], sums[1] + sums[2]
    first, second = sums[0] - sums[3], sums[1] - sums[2]
    z = (second + first) * _FIRST
    bits = _BITS - keep

    def whole(x: Array) -> Array:
        return x << keep if keep > 0 else _rounded(x, -keep)

    a, b, c, e = _odd_part(*odd)
    out = [
        whole(outer + inner),
        _rounded(e, bits),
        _rounded(z + first * _SECOND, bits),
        _rounded(c, bits),
        whole(outer - inner),
        _rounded(b, bits),
        _rounded(z + second * _THIRD, bits),
        _rounded(a, bits),
    ]
    return jnp.stack(out, axis)


def _back(x: Array, axis: int, *, drop: int) -> Array:
    """The transform back along an axis, and so many bits fewer."""
    c = _split(x, axis)
    z = (c[2] + c[6]) * _FIRST
    low, high = z + c[6] * _THIRD, z + c[2] * _SECOND
    plus, minus = (c[0] + c[4]) << _BITS, (c[0] - c[4]) << _BITS
    even = [plus + high, minus + low, minus - low, plus - high]
    odd = _odd_part(c[7], c[5], c[3], c[1])[::-1]
    ends = [_rounded(a + b, drop) for a, b in zip(even, odd, strict=True)]
    others = [_rounded(a - b, drop) for a, b in zip(even, odd, strict=True)]
    return jnp.stack([*ends, *others[::-1]], axis)


def _odd_part(a: Array, b: Array, c: Array, d: Array) -> list[Array]:
    """What both transforms make of the odd ones."""
    pairs = [a + d, b + c, a + c, b + d]
    common = (pairs[2] + pairs[3]) * _ALL
    z = [pair * share for pair, share in zip(pairs, _SUMS, strict=True)]
    z[2], z[3] = z[2] + common, z[3] + common
    parts = [x * share for x, share in zip((a, b, c, d), _ODD, strict=True)]
    added = (z[0] + z[2], z[1] + z[3], z[1] + z[2], z[0] + z[3])
    return [part + more for part, more in zip(parts, added, strict=True)]


def _halved(planes: Array) -> Array:
    """The mean of each 2 x 2 pixels; halves go down in one column, up in the next."""
    pairs = planes[:, ::2] + planes[:, 1::2]
    total = pairs[:, :, ::2] + pairs[:, :, 1::2]
    bias = 1 + np.arange(total.shape[2], dtype=np.int32) % 2
    return (total + bias[None, None, :, None]) >> 2


def _doubled(planes: Array) -> Array:
    """Each pixel as four: three parts of the nearest and one of the next, each way."""
    above = jnp.concatenate([planes[:, :1], planes[:, :-1]], 1)
    below = jnp.concatenate([planes[:, 1:], planes[:, -1:]], 1)
    rows = jnp.stack([3 * planes + above, 3 * planes + below], 2)
    rows = rearrange(rows, "n h two w c -> n (h two) w c")
    left = jnp.concatenate([rows[:, :, :1], rows[:, :, :-1]], 2)
    right = jnp.concatenate([rows[:, :, 1:], rows[:, :, -1:]], 2)
    both = [(3 * rows + left + 8) >> 4, (3 * rows + right + 7) >> 4]
    return rearrange(jnp.stack(both, 3), "n h w two c -> n h (w two) c")
