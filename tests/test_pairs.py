"""Photographs for super-resolution, and the pairs that are made of them."""

import hashlib
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision.data import pieces as source
from jaxvision.data.pairs import (
    enlarge,
    pair_transform,
    random_crops,
    random_pairs,
    reduce,
)
from jaxvision.data.pieces import centre_square, open_benchmark, open_photos


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def resized(pixels, size):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_is_what_pil_makes_of_the_file(scale):
    image = noise(36, 48)
    low = reduce(jnp.asarray(image[None] / np.float32(255)), scale=scale)
    small = resized(image, (48 // scale, 36 // scale))
    np.testing.assert_array_equal(np.round(np.asarray(low[0]) * 255), small)
    large = np.asarray(enlarge(low, scale=scale)[0]) * 255
    assert large.shape == (36, 48, 3) and large.min() >= 0 and large.max() <= 255
    # PIL rounds after each of its two passes; it would clip what overshoots.
    smooth = resized(noise(4, 4) // 2 + 64, (20, 20))
    ours = enlarge(jnp.asarray(smooth[None] / np.float32(255)), scale=scale)
    theirs = resized(smooth, (20 * scale, 20 * scale))
    assert np.abs(np.asarray(ours[0]) * 255 - theirs).max() < 1.13


def test_crops_are_turned_pieces_of_their_own_photo():
    sizes = np.array([(20, 26), (16, 16)], np.int32)
    images = np.zeros((2, 20, 30, 3), np.uint8)
    for index, (height, width) in enumerate(sizes):
        images[index, :height, :width] = noise(height, width, index) | 1  # never 0
    crops = jax.jit(partial(random_crops, crop_size=16))
    seen = set()
    for seed in range(40):
        out = np.asarray(crops(jax.random.key(seed), images, sizes))
        assert out.shape == (2, 16, 16, 3) and out.min() > 0
        levels = np.round(out * 255).astype(np.uint8)
        for index, (height, width) in enumerate(sizes):
            seen.add((index, *find(images[index, :height, :width], levels[index])))
    assert {place[1:] for place in seen if place[0] == 1} == {
        (0, 0, turn) for turn in range(8)
    }
    tops, lefts, turns = zip(*(p[1:] for p in seen if p[0] == 0), strict=True)
    assert min(tops) == 0 and max(tops) == 4 and min(lefts) == 0 and max(lefts) == 10
    assert set(turns) == set(range(8))


def find(image, crop):
    """Corner and position of a crop in its image."""
    for turn in range(8):
        flat = crop if turn < 4 else crop[:, ::-1]
        turned = np.rot90(flat, turn % 4)
        size = len(turned)
        for top in range(image.shape[0] - size + 1):
            for left in range(image.shape[1] - size + 1):
                if np.array_equal(image[top : top + size, left : left + size], turned):
                    return top, left, turn
    raise AssertionError("the crop is not in its photo")


@pytest.mark.parametrize("scale", [2, 4])
def test_pairs_match_and_colours_change_before_the_low_resolution(scale):
    images = noise(24, 24)[None].repeat(3, axis=0)
    sizes = np.full((3, 2), 24, np.int32)
    options = {"crop_size": 16, "scale": scale}
    pairs = jax.jit(random_pairs, static_argnames=(*options, "jitter"))
    key = jax.random.key(3)
    plain = pairs(key, images, sizes, jitter=0.0, **options)
    vivid = pairs(key, images, sizes, jitter=0.2, **options)
    for inputs, targets in (plain, vivid):
        assert inputs.shape == (3, 16 // scale, 16 // scale, 3)
        assert targets.shape == (3, 16, 16, 3)
        np.testing.assert_array_equal(inputs, reduce(targets, scale=scale))
        levels = np.asarray(targets) * 255
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert (np.abs(vivid[1] - plain[1]).max(axis=(1, 2, 3)) > 0.02).all()


@pytest.mark.parametrize("enlarged", [False, True])
def test_networks_see_the_low_resolution_or_its_enlargement(enlarged):
    images = noise(24, 36)[None]
    make = pair_transform(crop_size=12, jitter=0.0, scale=3, enlarged=enlarged)
    batch = {"image": jnp.asarray(images), "size": jnp.array([(24, 36)], jnp.int32)}
    for made in (make(None, batch), make(jax.random.key(0), batch)):
        low = reduce(made["target"], scale=3)
        right = enlarge(low, scale=3) if enlarged else low
        np.testing.assert_array_equal(made["image"], right)


def test_folder_splits_are_its_own_train_and_test(tmp_path):
    for index in range(3):
        save(tmp_path / "train" / "any" / f"{index}.png", noise(40, 51, index))
    save(tmp_path / "train" / "upright.png", noise(60, 33, 7))
    save(tmp_path / "train" / "small.png", noise(31, 90))
    (tmp_path / "train" / "damaged.jpg").write_bytes(b"no")
    save(tmp_path / "test" / "odd.png", noise(33, 47))
    save(tmp_path / "test" / ".hidden.png", noise(40, 40))
    found = open_photos(str(tmp_path), crop_size=32)
    assert found.name == tmp_path.name and found.count == 4
    assert found.images.shape == (4, 40, 60, 3)
    assert found.sizes.tolist() == [[33, 60]] + [[40, 51]] * 3
    np.testing.assert_array_equal(found.images[1, :40, :51], noise(40, 51, 0))
    assert not found.images[1, :, 51:].any()
    upright = noise(60, 33, 7).swapaxes(0, 1)
    np.testing.assert_array_equal(found.images[0, :33], upright)
    (photo,) = found.val
    assert photo.name.endswith("odd.png") and not photo.is_gray
    np.testing.assert_array_equal(photo.image, noise(33, 47)[:32, :46])
    assert {line.rpartition("/")[2].partition(":")[0] for line in found.skipped} == {
        "small.png",
        "damaged.jpg",
    }


def test_other_folders_are_split_by_the_seed(tmp_path):
    for index in range(10):
        save(tmp_path / "a" / f"{index}.png", noise(32, 32, index))
    splits = [open_photos(str(tmp_path), crop_size=32, seed=s) for s in (0, 0, 1)]
    names = [{photo.name for photo in found.val} for found in splits]
    assert all(found.count == 8 and len(found.val) == 2 for found in splits)
    assert names[0] == names[1] != names[2]
    one = open_photos(str(tmp_path), crop_size=32, val_count=1)
    assert len(one.val) == 1 and {one.val[0].name} < names[0]
    assert one.count == 9  # what was set aside and is not judged by is trained on


def test_photos_of_several_folders_are_put_together(tmp_path):
    for index in range(6):
        save(tmp_path / "a" / "train" / f"{index}.png", noise(32, 40, index))
    save(tmp_path / "a" / "test" / "0.png", noise(32, 32, 9))
    for index in range(5):
        save(tmp_path / "b" / f"{index}.png", noise(36, 50, 10 + index))
    specs = [str(tmp_path / name) for name in ("a", "b")]
    both = open_photos(*specs, crop_size=32)
    assert both.name == "a + b" and both.count == 10 and both.images.shape[0] == 10
    assert both.sizes.tolist() == [[32, 40]] * 6 + [[36, 50]] * 4
    alone = [open_photos(spec, crop_size=32) for spec in specs]
    names = [photo.name for found in alone for photo in found.val]
    assert [photo.name for photo in both.val] == names and len(names) == 2
    # Of each its share; a folder's own test photographs are never trained on.
    for index in range(3):
        save(tmp_path / "a" / "test" / f"{index}.png", noise(32, 32, 20 + index))
    few = open_photos(*specs, crop_size=32, val_count=3)
    assert [Path(photo.name).parent.name for photo in few.val] == ["test"] * 2 + ["b"]
    assert few.count == 10
    one = open_photos(*specs, crop_size=32, val_count=1)
    assert [Path(photo.name).parent.name for photo in one.val] == ["test"]
    assert one.count == 11
    with pytest.raises(ValueError, match="named twice"):
        open_photos(specs[0], specs[0], crop_size=32)
    with pytest.raises(ValueError, match="no/such"):
        open_photos(specs[0], "/no/such", crop_size=32)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_the_scale_leaves_over_is_cut_off(tmp_path, scale):
    for split in ("train", "test"):
        save(tmp_path / split / "0.png", noise(47, 59))
    (benchmark, _) = open_benchmark(str(tmp_path), scale=scale)
    (judged,) = open_photos(str(tmp_path), crop_size=32, scale=scale).val
    for photo in (benchmark, judged):
        height, width = photo.image.shape[:2]
        assert height == 47 - 47 % scale and width == 59 - 59 % scale
        np.testing.assert_array_equal(photo.image, noise(47, 59)[:height, :width])


def test_squares_are_as_large_as_their_own_photo_allows():
    sides = [len(centre_square(noise(h, w))) for h, w in ((300, 256), (255, 400))]
    assert sides == [256, 128]
    image = noise(40, 70)
    np.testing.assert_array_equal(centre_square(image), image[:, 15:55])
    np.testing.assert_array_equal(centre_square(image, scale=3), image[:39, 15:54])
    assert centre_square(noise(300, 300), scale=3).shape == (255, 255, 3)


def test_choice_of_photos_to_judge_by_moves_with_the_folder(tmp_path):
    save(tmp_path / "a" / "train" / "0.png", noise(32, 32))
    for index in range(12):
        save(tmp_path / "a" / "test" / f"{index}.png", noise(32, 32, index))
    shutil.copytree(tmp_path / "a", tmp_path / "else" / "b")
    found = [
        open_photos(str(tmp_path / folder), crop_size=32, val_count=3).val
        for folder in ("a", "else/b")
    ]
    names = [{Path(photo.name).name for photo in photos} for photos in found]
    assert len(names[0]) == 3 and names[0] == names[1]


def test_large_photos_become_overlapping_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "PIECE", (20, 30))
    monkeypatch.setattr(source, "LARGEST", 40)
    save(tmp_path / "train" / "0.png", noise(75, 50))
    save(tmp_path / "val" / "0.png", noise(60, 35))
    found = open_photos(str(tmp_path), crop_size=16)
    whole = noise(75, 50).swapaxes(0, 1)
    assert found.count == 1 and found.images.shape == (6, 20, 30, 3)
    np.testing.assert_array_equal(found.images[0], whole[:20, :30])
    np.testing.assert_array_equal(found.images[-1], whole[-20:, -30:])
    np.testing.assert_array_equal(found.val[0].image, noise(60, 35)[10:50, :34])


def test_set_aside_is_a_fifth_by_the_names_below_the_folder(tmp_path):
    for index in range(11):
        save(tmp_path / "a" / f"{index % 3}" / f"{index}.png", noise(32, 32, index))
    keys = [f"{index % 3}/{index}.png" for index in range(11)]
    keys.sort(key=lambda key: hashlib.sha256(f"7/{key}".encode()).digest())
    found = open_photos(str(tmp_path / "a"), crop_size=32, seed=7)
    names = {photo.name for photo in found.val}
    assert names == {str(tmp_path / "a" / key) for key in keys[:2]}


def test_benchmark_is_all_below_a_folder_whatever_its_folders_are_called(tmp_path):
    for index, name in enumerate(("train/0", "test/0", "else/0", "1")):
        save(tmp_path / f"{name}.png", noise(32, 34, index))
    names = [photo.name for photo in open_benchmark(str(tmp_path))]
    expected = [f"{tmp_path}/{x}.png" for x in ("1", "else/0", "test/0", "train/0")]
    assert names == expected


WRONG = [
    ("one", "one photo only in .*/one: two are needed, one to train on"),
    ("bare", "no images in .*/bare/val: add some .*or remove the folder"),
    ("/no/such/folder", "no such folder; it may be 'demo'"),
    ("empty", "there are no photos to train on .*: give a folder of images"),
    ("small", "none of the 4 photos to train on .*20 x 40 pixels.*smaller crop"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG)
def test_wrong_data_says_what_to_do(tmp_path, spec, message):
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one" / "0.png", noise(40, 40))
    save(tmp_path / "bare" / "train" / "0.png", noise(40, 40))
    (tmp_path / "bare" / "val").mkdir()
    for index in range(5):
        save(tmp_path / "small" / f"{index}.png", noise(40, 20, index))
    with pytest.raises(ValueError, match=message) as caught:
        open_photos(str(tmp_path / spec), crop_size=32)
    assert "\n" not in str(caught.value)


def test_demo_regions_do_not_meet_and_the_benchmark_is_whole():
    found = open_photos("demo", crop_size=32)
    assert found.count == 9 and len(found.val) == 9
    assert all(min(photo.image.shape[:2]) >= 32 for photo in found.val)
    whole = {photo.name: photo.image for photo in open_benchmark("demo")}
    assert whole["astronaut"].shape == (512, 512, 3)
    strip = next(photo.image for photo in found.val if photo.name == "astronaut")
    np.testing.assert_array_equal(strip, whole["astronaut"][:, : strip.shape[1]])
    piece = found.images[0][: found.sizes[0][0], : found.sizes[0][1]]
    np.testing.assert_array_equal(
        piece, whole["astronaut"][:, strip.shape[1] :].swapaxes(0, 1)[: len(piece)]
    )


def test_benchmark_names_what_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="neither a folder of images nor 'demo'"):
        open_benchmark(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no images in"):
        open_benchmark(str(tmp_path))
    Image.fromarray(noise(41, 40)).convert("L").save(tmp_path / "grey.png")
    (photo,) = open_benchmark(str(tmp_path))
    assert photo.image.shape == (40, 40, 3) and photo.is_gray
    (tmp_path / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="x.jpg: no image"):
        open_benchmark(str(tmp_path))
