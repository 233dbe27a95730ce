"""The picture of low resolution, methods and truth."""

import numpy as np
import pytest
from PIL import Image

from experiments.pages.enlargements import (
    Example,
    Version,
    draw_enlargements,
    zoomed_square,
)


def example(name="photo.jpg", height=80, width=120):
    truth = np.full((height, width, 3), 128, np.uint8)
    truth[30:50, 60:90] = (200, 30, 30)
    rough = np.full_like(truth, 128)
    low = rough[::2, ::2]
    versions = [Version("bicubic", rough, 20.0, 0.5), Version("model", truth, 99, 1.0)]
    return Example(name, low, versions, truth)


def test_square_is_where_the_first_version_is_furthest_off():
    truth, image = (np.zeros((40, 50, 3), np.uint8) for _ in range(2))
    image[21:27, 33:39] = 100
    top, left = zoomed_square(truth, image, side=8, scale=2)
    assert (top % 2, left % 2) == (0, 0)
    assert top <= 21 and top + 8 >= 27 and left <= 33 and left + 8 >= 39
    assert zoomed_square(truth, truth, side=40, scale=2) == (0, 0)  # equal, and no room


def test_picture_shows_each_method_in_a_column(tmp_path):
    path = tmp_path / "comparison.png"
    draw_enlargements(
        [example(), example("b" * 80 + "$x$.jpg")], path, protocol="luma", scale=2
    )
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    assert 1.5 < width / height < 3  # five columns, two rows
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 60)
    columns = [red[:, k * width // 5 : (k + 1) * width // 5].sum() for k in range(5)]
    # The photo, the model and the truth show the red patch; what was lost, no other.
    assert min(columns[0], columns[3], columns[4]) > 500
    assert max(columns[1], columns[2]) < 50


def test_small_photos_are_shown_whole(tmp_path):
    small = example(height=51, width=92)
    small = small._replace(low=small.low[:25, :46])
    draw_enlargements([small], tmp_path / "a.png", protocol="luma", scale=2)
    assert (tmp_path / "a.png").stat().st_size > 0


def test_sizes_must_agree(tmp_path):
    wrong = example()
    wrong.versions[0] = Version("bicubic", wrong.low, 20.0, 0.5)
    with pytest.raises(ValueError, match="photo.jpg, bicubic: .*40, 60.*80, 120"):
        draw_enlargements([wrong], tmp_path / "a.png", protocol="luma", scale=2)
    with pytest.raises(ValueError, match="no photograph"):
        draw_enlargements([], tmp_path / "a.png", protocol="luma", scale=2)
    assert list(tmp_path.iterdir()) == []
