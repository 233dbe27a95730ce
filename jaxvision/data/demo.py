"""Nine photographs that come with scikit-image, cut into a small data set.

No network, no download: the files are in scikit-image's wheel. The photographs, and
what scikit-image's documentation says of their rights:

| class     | photograph                                     | rights        |
| --------- | ---------------------------------------------- | ------------- |
| astronaut | Eileen Collins; NASA Great Images              | public domain |
| brick     | brick wall; CC0Textures, "Bricks25"            | CC0           |
| cat       | Chelsea; Stefan van der Walt                   | CC0           |
| coffee    | a cup at Pikolo Espresso Bar; Rachel Michetti  | CC0           |
| grass     | grass; linolafett, "Grass-01", DeviantArt      | CC0           |
| gravel    | gravel; CC0Textures, "Gravel04"                | CC0           |
| hubble    | Hubble eXtreme Deep Field; NASA, HubbleSite    | public domain |
| retina    | fundus of a left eye; Mikael Häggström         | CC0           |
| rocket    | a Falcon 9 on its pad; SpaceX                  | public domain |
"""

from dataclasses import dataclass
from functools import partial
from importlib import resources

import numpy as np
from PIL import Image

from jaxvision.data.decode import open_image
from jaxvision.data.photo import Photo, Source


@dataclass(frozen=True)
class Cut:
    """One class of the demo: a photograph, and what is cut from it.

    Attributes:
      file: under scikit-image's `data` folder.
      train: how many training crops.
      val: how many validation crops.
      strip: the edge along which the validation crops lie.
      margin: pixels around the photograph that no crop takes.
    """

    file: str
    train: int
    val: int
    strip: str = "right"
    margin: int = 0


PHOTOS = {
    "astronaut": Cut("astronaut.png", 126, 30, strip="left"),
    "brick": Cut("brick.png", 83, 22),
    "cat": Cut("chelsea.png", 119, 29, strip="top"),
    "coffee": Cut("coffee.png", 112, 27, strip="bottom"),
    "grass": Cut("grass.png", 94, 25),
    "gravel": Cut("gravel.png", 75, 20),
    "hubble": Cut("hubble_deep_field.jpg", 108, 27),
    # The margin is the black around the disc.
    "retina": Cut("retina.jpg", 97, 24, margin=205),
    "rocket": Cut("rocket.jpg", 115, 30),
}
STRIP_SHARE = 0.3
"""Share of a photograph's width or height that is validation's alone."""

_SEED = 929_234

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, as Pillow has it."""


def demo_photos() -> dict[str, np.ndarray]:
    """The nine photographs, whole: uint8 `(h, w, 3)`, by class name.

    Raises:
      ValueError: scikit-image is not installed.
    """
    try:
        folder = resources.files("skimage") / "data"
    except ModuleNotFoundError:
        raise ValueError(
            "data 'demo' needs scikit-image: pip install 'jaxvision[app]'"
        ) from None
    photos = {}
    for name, photo in PHOTOS.items():
        with resources.as_file(folder / photo.file) as path:
            photos[name] = np.array(open_image(path))
    return photos


def demo_boxes(
    sizes: dict[str, tuple[int, int]],
) -> dict[str, tuple[list[Box], list[Box]]]:
    """Training and validation crops of each photograph, from regions that do not meet.

    Args:
      sizes: width and height of each photograph.

    Returns:
      By class, the boxes of the training and of the validation crops: squares of a half
      to the whole of the validation strip's breadth, in training up to twice that.
    """
    rng = np.random.default_rng(_SEED)
    boxes = {}
    for name, photo in PHOTOS.items():
        train, val = demo_regions(name, sizes[name])
        breadth = min(val[2] - val[0], val[3] - val[1])
        room = min(train[2] - train[0], train[3] - train[1])
        boxes[name] = (
            _squares(rng, photo.train, train, breadth // 2, min(2 * breadth, room)),
            _squares(rng, photo.val, val, breadth // 2, breadth),
        )
    return boxes


def demo_regions(name: str, size: tuple[int, int]) -> tuple[Box, Box]:
    """The regions of one photograph of `size` that the two splits' crops come from."""
    photo = PHOTOS[name]
    low, (right, bottom) = photo.margin, (side - photo.margin for side in size)
    box = [low, low, right, bottom]
    edge = ("left", "top", "right", "bottom").index(photo.strip)
    breadth = round(STRIP_SHARE * (box[edge % 2 + 2] - box[edge % 2]))
    cut = box[edge] + (breadth if edge < 2 else -breadth)
    train, val = list(box), list(box)
    train[edge] = cut
    val[(edge + 2) % 4] = cut
    return _box(train), _box(val)


def open_demo(spec: str, *, labelled: bool) -> Source:
    """929 training and 234 validation crops in nine unbalanced classes.

    Without classes the nine photographs, each divided into two regions that do not
    meet. The same bits at each call; names are of no files.

    Raises:
      ValueError: scikit-image is not installed.
    """
    photos = {name: Image.fromarray(x) for name, x in demo_photos().items()}
    if not labelled:
        train, val = (
            [
                Photo(name, name, partial(image.crop, boxes[side]))
                for name, image in photos.items()
                for boxes in [demo_regions(name, image.size)]
            ]
            for side in (0, 1)
        )
        whole = [Photo(name, name, image.copy) for name, image in photos.items()]
        return Source("demo", spec, train, val, undivided=lambda: whole)
    boxes = demo_boxes({name: photo.size for name, photo in photos.items()})
    train, val = (
        [
            Photo(
                name=f"demo/{split}/{name}/{index:04d}.png",
                key=f"{name}/{index:04d}.png",
                open=partial(photos[name].crop, box),
                label=partial(int, label),
            )
            for label, name in enumerate(PHOTOS)
            for index, box in enumerate(boxes[name][side])
        ]
        for side, split in enumerate(("train", "val"))
    )
    return Source("demo", spec, train, val, classes=tuple(PHOTOS))


def _box(edges: list[int]) -> Box:
    left, top, right, bottom = edges
    return left, top, right, bottom


def _squares(
    rng: np.random.Generator, count: int, region: Box, smallest: int, largest: int
) -> list[Box]:
    left, top, right, bottom = region
    squares = []
    for _ in range(count):
        side = int(rng.integers(smallest, largest, endpoint=True))
        x = int(rng.integers(left, right - side, endpoint=True))
        y = int(rng.integers(top, bottom - side, endpoint=True))
        squares.append((x, y, x + side, y + side))
    return squares
