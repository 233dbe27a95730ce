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
from importlib import resources

import numpy as np
from PIL import Image

from jaxvision.data.dataset import Dataset, Progress, Split
from jaxvision.data.decode import Sizes, decode_pair


@dataclass(frozen=True)
class Photo:
    """One class of the demo.

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
    "astronaut": Photo("astronaut.png", 126, 30, strip="left"),
    "brick": Photo("brick.png", 83, 22),
    "cat": Photo("chelsea.png", 119, 29, strip="top"),
    "coffee": Photo("coffee.png", 112, 27, strip="bottom"),
    "grass": Photo("grass.png", 94, 25),
    "gravel": Photo("gravel.png", 75, 20),
    "hubble": Photo("hubble_deep_field.jpg", 108, 27),
    # The margin is the black around the disc.
    "retina": Photo("retina.jpg", 97, 24, margin=205),
    "rocket": Photo("rocket.jpg", 115, 30),
}
STRIP_SHARE = 0.3
"""Share of a photograph's width or height that is validation's alone."""

_SEED = 929_234

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, as Pillow has it."""


def demo_photos() -> dict[str, np.ndarray]:
    """The nine photographs, whole: uint8 `(h, w, 3)`, by class name."""
    folder = resources.files("skimage") / "data"
    photos = {}
    for name, photo in PHOTOS.items():
        with resources.as_file(folder / photo.file) as path, Image.open(path) as image:
            photos[name] = np.array(image.convert("RGB"))
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


def open_demo(*, sizes: Sizes, progress: Progress | None = None) -> Dataset:
    """929 training and 234 validation crops in nine unbalanced classes.

    The same bits at each call; `paths` name no files.
    """
    photos = {name: Image.fromarray(x) for name, x in demo_photos().items()}
    boxes = demo_boxes({name: photo.size for name, photo in photos.items()})
    train, val = (
        [(name, box) for name, sides in boxes.items() for box in sides[side]]
        for side in (0, 1)
    )
    images, _ = decode_pair(
        train,
        val,
        lambda source: photos[source[0]].crop(source[1]),
        sizes=sizes,
        progress=progress,
    )
    return Dataset(
        name="demo",
        classes=tuple(PHOTOS),
        train=_split("train", images[0], [photo.train for photo in PHOTOS.values()]),
        val=_split("val", images[1], [photo.val for photo in PHOTOS.values()]),
    )


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


def _split(name: str, images: np.ndarray, counts: list[int]) -> Split:
    return Split(
        images=images,
        labels=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        paths=tuple(
            f"demo/{name}/{class_name}/{index:04d}.png"
            for class_name, count in zip(PHOTOS, counts, strict=True)
            for index in range(count)
        ),
    )
