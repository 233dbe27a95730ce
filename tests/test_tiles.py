"""Tiles: no seam, no pixel twice, one compilation, the memory of one tile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import models
from jaxvision.data.pairs import enlarge
from jaxvision.functional import functionalize
from jaxvision.preprocess import to_float
from jaxvision.tiles import map_tiles, spans

HALO = 5  # ceil((4 + 0 + 2 of srcnn_915, and 3 of the bicubic) / 2)


@given(st.integers(1, 400), st.integers(1, 64), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_spans_cover_each_pixel_once_away_from_inner_ends(size, tile, halo):
    if size > tile and tile <= 2 * halo:
        with pytest.raises(ValueError, match="nothing but a halo"):
            spans(size, tile=tile, halo=halo)
        return
    found = spans(size, tile=tile, halo=halo)
    kept = [pixel for s in found for pixel in range(s.keep_from, s.keep_to)]
    assert kept == list(range(size))
    for span in found:
        end = span.start + span.length
        assert span.length == min(size, tile) and 0 <= span.start and end <= size
        assert span.start == 0 or span.keep_from - span.start >= halo
        assert end == size or end - span.keep_to >= halo


@pytest.fixture(scope="module")
def network():
    """`fn(images)`, bicubic and a network whose biases make its borders visible."""
    model: Any = models.create("srcnn_915", rngs=nnx.Rngs(0))
    model.conv3.kernel[...] *= 1000.0
    for layer in (model.conv1, model.conv2, model.conv3):
        layer.bias[...] += 0.3
    apply, params, stats = functionalize(model)
    traces = []

    @jax.jit
    def fn(images):
        traces.append(images.shape)
        return apply(params, stats, enlarge(to_float(images), scale=2))[0]

    return fn, traces


@pytest.mark.parametrize(
    ("height", "width"), [(24, 25), (37, 61), (1, 40), (30, 1), (24, 24), (7, 100)]
)
def test_tiles_equal_the_whole_image(network, height, width):
    fn, traces = network
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    whole = np.asarray(fn(image[None]))[0]
    del traces[:]
    tiled = map_tiles(fn, image, tile=24, halo=HALO, scale=2)
    assert tiled.shape == (2 * height, 2 * width, 3)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6 * np.abs(whole).max())
    assert len(traces) <= 1  # one compilation for all tiles


def test_a_smaller_halo_leaves_seams(network):
    """What the test above would not see if the network did not reach so far."""
    fn, _ = network
    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3)).astype(np.uint8)
    whole = np.asarray(fn(image[None]))[0]
    tiled = map_tiles(fn, image, tile=24, halo=HALO - 1, scale=2)
    assert np.abs(tiled - whole).max() > 1e-4 * np.abs(whole).max()


def test_progress_counts_tiles_and_a_wrong_scale_is_an_error():
    image = np.zeros((10, 20, 1), np.uint8)
    seen = []

    def show(done, total):
        seen.append((done, total))

    def same(part):
        return jnp.asarray(part)

    out = map_tiles(same, image, tile=8, halo=1, progress=show)
    assert out.dtype == np.uint8 and seen == [(n, 6) for n in range(1, 7)]
    with pytest.raises(ValueError, match="the scale is not 2"):
        map_tiles(same, image, tile=8, halo=1, scale=2)
