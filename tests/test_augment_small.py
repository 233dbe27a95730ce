"""Pad-and-crop and cutout against torchvision; what the random ones draw."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import augment
from jaxvision.augment import pipelines
from jaxvision.preprocess import Preprocessing
from tests.augmentations import (  # noqa: F401  fixtures among them
    F,
    N,
    assert_counts_alike,
    assert_uncorrelated,
    drawn,
    key,
    ours,
    photos,
)


@pytest.mark.torch
@pytest.mark.parametrize("padding", [0, 4, 10])
def test_pad_crop_equals_torchvisions(F, float64, padding):
    images = photos(11, 14)
    ends = np.array([[0, 0], [0, 2], [2, 0], [1, 1], [2, 2], [2, 1]]) * padding
    corners = np.where(ends == padding, padding - np.arange(N)[:, None] // 3, ends)
    corners = np.maximum(corners, 0)
    padded = F("pad", images, np.full(N, padding), padding_mode="reflect")
    theirs = F("crop", padded, *corners.T, np.full(N, 11), np.full(N, 14))
    result = ours("pad_crop", images, corners, padding=padding)
    assert result.dtype == theirs.dtype
    np.testing.assert_array_equal(result, theirs)
    # Bytes, before they are scaled, are moved alike.
    images, theirs = (np.uint8(255 * x) for x in (images, theirs))
    result = ours("pad_crop", images, corners, padding=padding)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, theirs)


def test_random_pad_crop_corners_are_uniform(drawn):
    ((top, left),) = drawn("pad_crop", to="pad_crop", shape=(9, 7), padding=2)
    assert_counts_alike(top, 5)
    assert_counts_alike(left, 5)
    assert_uncorrelated(top, left)


CENTERS = np.array([[0, 0], [10, 13], [5, 6], [1, 12], [9, 2], [4, 0]])


@pytest.mark.torch
@pytest.mark.parametrize("fill", [0.5, (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("size", [1, 6, 40])
def test_cutout_equals_torchvisions_erase_of_the_papers_square(F, float64, size, fill):
    torch = pytest.importorskip("torch")
    images = photos(11, 14)
    # As the paper's program has it: half the side to each hand, clipped. There an odd
    # side loses a pixel, here the lower half has it.
    sides = np.array([11, 14])
    half = (size // 2, (size + 1) // 2)
    first = np.clip(CENTERS - half[0], 0, sides)
    extent = np.clip(CENTERS + half[1], 0, sides) - first
    value = torch.tensor(fill, dtype=torch.float64).reshape(-1, 1, 1)
    theirs = F("erase", images, *first.T, *extent.T, v=value)
    result = ours("cutout", images, CENTERS, size=size, fill=fill)
    assert result.dtype == theirs.dtype
    np.testing.assert_array_equal(result, theirs)


def test_cutout_takes_size_pixels_a_side_for_odd_and_even_sizes():
    images = jnp.zeros((1, 12, 12, 1))
    for size in range(1, 8):
        taken = augment.cutout(images, jnp.array([[6, 6]]), size=size, fill=1.0)
        assert taken.sum() == size**2
        assert np.all(np.diff(np.flatnonzero(taken[0].any((0, 2)))) == 1)


def test_random_cutout_centers_are_uniform_over_the_image(drawn):
    ((row, column),) = drawn("cutout", to="cutout", shape=(9, 7), size=4)
    assert_counts_alike(row, 9)
    assert_counts_alike(column, 7)
    assert_uncorrelated(row, column)


def test_small_pipelines_pad_crop_flip_and_cut_in_this_order(monkeypatch):
    calls = []

    def spy(name, function, key, images, **options):
        calls.append((name, images.shape[1], options))
        return function(key, images, **options)

    for name in ("crop", "pad_crop", "horizontal_flip", "cutout"):
        function = getattr(pipelines, f"random_{name}")
        monkeypatch.setattr(pipelines, f"random_{name}", partial(spy, name, function))

    def called(name, side, size):
        calls.clear()
        images = jnp.zeros((2, side, side, 3))
        pipeline = partial(augment.PIPELINES[name], size=size)
        assert jax.eval_shape(pipeline, key(), images).shape == (2, size, size, 3)
        return list(calls)

    crop_flip = [("pad_crop", 32, {"padding": 4}), ("horizontal_flip", 32, {})]
    assert called("crop_flip", 32, 32) == crop_flip
    assert called("cutout", 32, 32) == [*crop_flip, ("cutout", 32, {"size": 8})]
    larger = [("crop", 40, {"size": 32}), ("horizontal_flip", 32, {})]
    assert called("crop_flip", 40, 32) == larger
    assert called("crop_flip", 96, 96)[0] == ("pad_crop", 96, {"padding": 12})


def test_cutout_pipeline_moves_mirrors_and_cuts_each_image_by_itself():
    # Rows and columns tell where a pixel is from; the blue channel is free.
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    image = np.stack((rows, columns, np.full_like(rows, 20)), axis=2) / 20
    images = jnp.asarray(np.broadcast_to(image, (64, 16, 16, 3)), jnp.float32)
    out = np.asarray(augment.make_pipeline("cutout", size=16)(key(), images))
    cut = (out == 0.5).all(axis=3)
    assert np.array_equal(cut, out[..., 2] == 0.5)
    height, width = cut.any(axis=2).sum(axis=1), cut.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(cut.sum(axis=(1, 2)), height * width)
    assert height.max() == width.max() == 4 and min(height.min(), width.min()) >= 2
    moves, mirrored = set(), []
    for sample, hole in zip(out, cut, strict=True):
        steps = np.sign(np.diff(sample[:, :, 1], axis=1))[~(hole[:, 1:] | hole[:, :-1])]
        mirrored.append(steps.sum() < 0)
        seen = sample[:, ::-1] if mirrored[-1] else sample
        whole = ~(hole[:, ::-1] if mirrored[-1] else hole)
        matches = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.allclose(_moved(image, i, j)[whole], seen[whole], atol=1e-6)
        ]
        assert len(matches) == 1
        moves.add(matches[0])
    assert 20 <= sum(mirrored) <= 44 and len(moves) > 15


def test_alternating_flips_show_each_side_in_turn():
    # Of noise: none is its own mirror image.
    images = jax.random.uniform(key(), (64, 4, 4, 3))
    index = jnp.arange(1000, 1064)

    def sides(epoch, at=slice(None)):
        out = augment.alternating_flip(
            images[at], index[at], jnp.full(64, epoch, jnp.int32)[at]
        )
        turned = np.asarray(images[at, :, ::-1])
        same, other = (np.all(out == x, (1, 2, 3)) for x in (images[at], turned))
        assert np.all(same ^ other)
        return other

    first = sides(0)
    assert 20 <= first.sum() <= 44
    for epoch in range(1, 4):
        np.testing.assert_array_equal(sides(epoch), first ^ (epoch % 2 == 1))
    # An image's side is its own, whatever else is in the batch.
    np.testing.assert_array_equal(sides(1, slice(9, 20)), ~first[9:20])


def test_alternate_moves_by_two_pixels_and_flips_by_index_and_epoch():
    size = Preprocessing(resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))
    transform = augment.photo_transform("alternate", size)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    batch = {"image": jnp.asarray(pixels), "index": jnp.arange(32, dtype=jnp.int32)}
    np.testing.assert_allclose(transform(None, batch)["image"], pixels / 255, rtol=1e-6)
    epochs = [batch | {"epoch": jnp.full(32, e, jnp.int32)} for e in range(2)]
    first, second = (np.asarray(transform(key(), one)["image"]) for one in epochs)
    np.testing.assert_array_equal(first, second[:, :, ::-1])
    moves = set()
    for image, seen in zip(np.float32(pixels / 255), first, strict=True):
        found = [
            (i, j, side)
            for i in range(5)
            for j in range(5)
            for side in (1, -1)
            if np.allclose(_moved(image, i, j, side=32)[:, ::side], seen, atol=1e-6)
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 15 and {side for _, _, side in moves} == {1, -1}


def _moved(image, i, j, *, side=16):
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    return padded[i : i + side, j : j + side]


def test_bad_options_are_named():
    images, points = jnp.zeros((2, 8, 6, 3)), jnp.zeros((2, 2), jnp.int32)
    for padding in (6, -1):
        with pytest.raises(ValueError, match=f"reflect {padding} .*8 x 6.*0 .. 5"):
            augment.pad_crop(images, points, padding=padding)
    with pytest.raises(ValueError, match="needs a pixel or more, got 0"):
        augment.random_cutout(key(), images, size=0)
    with pytest.raises(ValueError, match="one number or 3, one for each channel"):
        augment.cutout(images, points, size=2, fill=(0.5, 0.5))
    with pytest.raises(ValueError, match="9 x 9 pixels from images of 8 x 6"):
        augment.make_pipeline("crop_flip", size=9)(key(), images)
