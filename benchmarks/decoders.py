"""Ways to decode a folder of JPEGs into one uint8 array: cases for the workers.

The peers have threads, but for Pillow's plain loop, and resize what is not yet of the
size.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.worker import Case, cores


def write_photos(folder: Path, *, count: int, size: int) -> None:
    """Writes `count` JPEGs of `size` px, cut from the demo's photographs."""
    from jaxvision.data.demo import demo_photos

    photos = list(demo_photos().values())
    rng = np.random.default_rng(0)
    for index in range(count):
        photo = photos[index % len(photos)]
        side = min(photo.shape[:2])
        top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
        square = Image.fromarray(photo[top : top + side, left : left + side])
        square = square.resize((size, size), Image.Resampling.BILINEAR)
        square.save(folder / f"{index:04d}.jpg", quality=90)


def ours(*, folder: str, size: int) -> Case:
    """`jaxvision.data`'s decoding, which opens, turns, checks and resizes."""
    from jaxvision.data.image_files import file_photo
    from jaxvision.data.squares import read_squares

    paths = sorted(Path(folder).glob("*.jpg"))
    photos = [file_photo(path) for path in paths]

    def decode():
        images, bad = read_squares(photos, size=size)
        assert not bad and len(images) == len(paths)

    return _case(decode)


def pillow(*, folder: str, size: int, threads: bool) -> Case:
    """Pillow, as torchvision's ImageFolder calls it."""

    def load(path: Path) -> np.ndarray:
        with Image.open(path, formats=("JPEG",)) as image:
            image = image.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image)

    return _folder(load, folder, size, threads)


def simplejpeg(*, folder: str, size: int, threads: bool) -> Case:
    """simplejpeg: libjpeg-turbo without anything around it; Pillow resizes."""
    from simplejpeg import decode_jpeg

    def load(path: Path) -> np.ndarray:
        pixels = decode_jpeg(path.read_bytes())
        if pixels.shape[:2] != (size, size):
            image = Image.fromarray(pixels)
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        return pixels

    return _folder(load, folder, size, threads)


def opencv(*, folder: str, size: int, threads: bool) -> Case:
    """OpenCV's `imread`, its colours put in order."""
    import cv2

    cv2.setNumThreads(1)  # the photos are what is done at once

    def load(path: Path) -> np.ndarray:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels.shape[:2] != (size, size):
            pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        return pixels

    return _folder(load, folder, size, threads)


STREAMED = {"resize": 256, "crop": 224}
"""What evaluation makes of a photo, and both sides of a stream."""
BATCH = 32


def stream(*, folder: str) -> Case:
    """`jaxvision.stream`: shuffled batches of squares on the device, by Grain."""
    import jax

    from jaxvision.data.file_photos import FilePhotos, names_below
    from jaxvision.data.lazy import LazyImages
    from jaxvision.data.squares import to_crop
    from jaxvision.parallel import make_mesh
    from jaxvision.stream import Stream

    paths = [str(path) for path in sorted(Path(folder).rglob("*.jpg"))]
    labels = np.zeros(len(paths), np.int32)
    photos = FilePhotos(folder, names_below(paths, folder), labels=labels)
    images = LazyImages(photos, partial(to_crop, **STREAMED), side=STREAMED["crop"])
    data = {"image": images, "label": labels}
    source = Stream(data, batch_size=BATCH, mesh=make_mesh())
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def epoch():
        order = jax.random.permutation(next(keys), len(paths))
        for batch in source.take(order, 0, len(paths) // BATCH):
            jax.block_until_ready(batch)

    return _case(epoch)


def dataloader(*, folder: str) -> Case:
    """PyTorch's DataLoader over torchvision's ImageFolder, a process a core."""
    import torch

    from converters.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    square = v2.Compose(
        [
            v2.Resize(STREAMED["resize"]),
            v2.CenterCrop(STREAMED["crop"]),
            v2.PILToTensor(),
        ]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(folder, square),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=cores(),
        persistent_workers=True,
    )

    def epoch():
        for _ in loader:
            pass

    return _case(epoch)


def _folder(
    load: Callable[[Path], np.ndarray], folder: str, size: int, threads: bool
) -> Case:
    paths = sorted(Path(folder).glob("*.jpg"))
    pool = ThreadPoolExecutor(cores())

    def decode():
        images = np.empty((len(paths), size, size, 3), np.uint8)
        for index, pixels in enumerate((pool.map if threads else map)(load, paths)):
            images[index] = pixels

    return _case(decode)


def _case(decode: Callable[[], None]) -> Case:
    def run(calls: int) -> None:
        for _ in range(calls):
            decode()

    run(1)
    return Case(run, {"backend": ""})
