"""torchvision's ImageNet weights: what there is, and reading a file of weights."""

import difflib
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401  teaches numpy, and so safetensors, the name "bfloat16"
import numpy as np
import safetensors

from converters.checkpoint import (
    NO_TENSORS_OF_A_MODEL,
    CheckpointError,
    current_names,
    find_state_dict,
    foreign_names,
    listed,
    plain_names,
)
from converters.torch_file import read_torch
from converters.torch_file.errors import quoted
from jaxvision.files import regular_file
from jaxvision.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jaxvision.tensor_file import open_tensors

OFFICIAL_URL = "https://download.pytorch.org/models"
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""What files of `torch.save` are called; `.tar` ends `.pth.tar`."""


@dataclass(frozen=True)
class Row:
    """One entry of torchvision's weights enums.

    `sha256_prefix` is the first 8 hex digits of the file's SHA-256, `acc1` and `acc5`
    are percent on ImageNet's validation set as torchvision gives them (nan where it
    gives none), `mib` the size of the file. `stem` is the file name before the hash
    where it is not the model's name.
    """

    model: str
    version: str
    sha256_prefix: str
    acc1: float
    acc5: float
    params: int
    mib: float
    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    stem: str = ""

    @property
    def file(self) -> str:
        """The name that torchvision gives the file."""
        return f"{self.stem or self.model}-{self.sha256_prefix}.pth"

    @property
    def url(self) -> str:
        """Where torchvision keeps the file."""
        return f"{OFFICIAL_URL}/{self.file}"

    @property
    def size(self) -> int:
        """Bytes of the file, to within 0.0005 MiB."""
        return round(self.mib * 2**20)

    @property
    def sha256(self) -> str:
        """The full hash where it is known, else empty; 8 digits can be forged."""
        known = (full for full in KNOWN if full.startswith(self.sha256_prefix))
        return next(known, "")

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network expects of its images."""
        return Preprocessing(self.resize, self.crop, self.mean, self.std)


TABLE = (
    Row("vgg11", "v1", "8a719046", 69.02, 88.628, 132863336, 506.84),
    Row("vgg11_bn", "v1", "6002323d", 70.37, 89.81, 132868840, 506.881),
    Row("vgg13", "v1", "19584684", 69.928, 89.246, 133047848, 507.545),
    Row("vgg13_bn", "v1", "abd245e5", 71.586, 90.374, 133053736, 507.59),
    Row("vgg16", "v1", "397923af", 71.592, 90.382, 138357544, 527.796),
    # The VGG-16 of SSD: Caffe's mean, pixels in [0, 255], no valid classifier.
    Row(
        "vgg16",
        "features",
        "88682ab5",
        math.nan,
        math.nan,
        138357544,
        527.802,
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255, 1 / 255, 1 / 255),
        stem="vgg16_features-amdegroot",
    ),
    Row("vgg16_bn", "v1", "6c64b313", 73.36, 91.516, 138365992, 527.866),
    Row("vgg19", "v1", "dcbb9e9d", 72.376, 90.876, 143667240, 548.051),
    Row("vgg19_bn", "v1", "c79401a0", 74.218, 91.842, 143678248, 548.143),
    Row("densenet121", "v1", "a639ec97", 74.434, 91.972, 7978856, 30.845),
    Row("densenet161", "v1", "8d451a50", 77.138, 93.56, 28681000, 110.369),
    Row("densenet169", "v1", "b2777c0a", 75.6, 92.806, 14149480, 54.708),
    Row("densenet201", "v1", "c1103571", 76.896, 93.37, 20013928, 77.373),
    Row("googlenet", "v1", "1378be20", 69.778, 89.53, 6624904, 49.731),
    Row("resnet18", "v1", "f37072fd", 69.758, 89.078, 11689512, 44.661),
    Row("resnet34", "v1", "b627a593", 73.314, 91.42, 21797672, 83.275),
    Row("resnet50", "v1", "0676ba61", 76.13, 92.862, 25557032, 97.781),
    Row("resnet50", "v2", "11ad3fa6", 80.858, 95.434, 25557032, 97.79, 232),
    Row("resnet101", "v1", "63fe2227", 77.374, 93.546, 44549160, 170.511),
    Row("resnet101", "v2", "cd907fc2", 81.886, 95.78, 44549160, 170.53, 232),
    Row("resnet152", "v1", "394f9c45", 78.312, 94.046, 60192808, 230.434),
    Row("resnet152", "v2", "f82ba261", 82.284, 96.002, 60192808, 230.474, 232),
    Row("resnext50_32x4d", "v1", "7cdf4587", 77.618, 93.698, 25028904, 95.789),
    Row("resnext50_32x4d", "v2", "1a0047aa", 81.198, 95.34, 25028904, 95.833, 232),
    Row("resnext101_32x8d", "v1", "8ba56ff5", 79.312, 94.526, 88791336, 339.586),
    Row("resnext101_32x8d", "v2", "110c445d", 82.834, 96.228, 88791336, 339.673, 232),
    Row("resnext101_64x4d", "v1", "173b62eb", 83.246, 96.454, 83455272, 319.318, 232),
    Row("wide_resnet50_2", "v1", "95faca4d", 78.468, 94.086, 68883240, 131.82),
    Row("wide_resnet50_2", "v2", "9ba9bcbe", 81.602, 95.758, 68883240, 263.124, 232),
    Row("wide_resnet101_2", "v1", "32ee1156", 78.848, 94.284, 126886696, 242.896),
    Row("wide_resnet101_2", "v2", "d733dc28", 82.51, 96.02, 126886696, 484.747, 232),
    Row("mobilenet_v2", "v1", "b0353104", 71.878, 90.286, 3504872, 13.555),
    Row("mobilenet_v2", "v2", "7ebf99e0", 72.154, 90.822, 3504872, 13.598, 232),
    Row("mobilenet_v3_large", "v1", "8738ca79", 74.042, 91.34, 5483032, 21.114),
    Row("mobilenet_v3_large", "v2", "5c1a4163", 75.274, 92.566, 5483032, 21.107, 232),
    Row("mobilenet_v3_small", "v1", "047dcff4", 67.668, 87.402, 2542856, 9.829),
)

KNOWN = (
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8",
    "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    "7ebf99e03e254b273379b23edca7ec0da9f48273b23a332b93c1c99d49e86e8f",
)
"""Full SHA-256 of files above, as at least two projects that pin them publish them."""

_PIECE = 1 << 14
_FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Every float16, by its bits."""


def find(name: str, *, which: str = "imagenet") -> Row:
    """The row of one set of weights.

    Args:
      name: torchvision's name of the model.
      which: "imagenet" for torchvision's DEFAULT, its newest ImageNet weights; or a
        version of the table: "v1", "v2", "features".

    Raises:
      ValueError: no such model, or no such weights of it; both name what there is.
    """
    rows = {row.version: row for row in TABLE if row.model == name}
    if not rows:
        models = sorted({row.model for row in TABLE})
        close = difflib.get_close_matches(name, models, n=3, cutoff=0.5) or models
        raise ValueError(f"no ImageNet weights for {name!r}; try {', '.join(close)}")
    if which == "imagenet":
        return rows[max(rows.keys() - {"features"})]
    if which not in rows:
        raise ValueError(
            f"{name} has no weights {which!r}; there are imagenet, {', '.join(rows)}"
        )
    return rows[which]


def named(path: Path) -> Row | None:
    """The row whose file is called as `path` is, wherever it lies."""
    return next((row for row in TABLE if row.file == path.name), None)


def find_fault(head: bytes) -> str | None:
    """Why a file that begins with `head` cannot hold weights, as far as that shows."""
    text = head.lstrip(b"\xef\xbb\xbf\t\r\n ").lower()
    if not head:
        return "is empty"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return "is a web page and holds no weights"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and holds no weights: run `git lfs pull`"
    return None


def split_key(text: str | Path) -> tuple[Path, str | None]:
    """The file in `FILE` or `FILE:KEY`, and the key: which of several models it is."""
    whole, _, key = str(text).rpartition(":")
    is_pair = key and Path(whole).suffix.lower() in PICKLED
    if is_pair and not Path(text).exists():
        return Path(whole), key
    return Path(text), None


def is_file_name(text: str | Path) -> bool:
    """Whether `text` names a file for `load_state_dict`, which need not exist."""
    return split_key(text)[0].suffix.lower() in (*PICKLED, ".safetensors")


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file of `torch.save` or a `.safetensors`, as torchvision's.

    Half-precision tensors become float32. What training scripts, data parallelism,
    compilation and averaging put around a model is undone (`converters.checkpoint`), as
    are the old names in DenseNet's files and those of timm's ports of torchvision's
    weights. A warning names what is left out. torch is not needed.

    Args:
      path: the file; or `FILE:KEY`, where it holds several models.

    Raises:
      ValueError: the file is missing, damaged, no file of weights, holds pickled
        Python objects, several models or another library's, or an entry is not a plain
        tensor.
    """
    path, key = split_key(path)
    if not is_file_name(path):
        raise ValueError(
            f"{path}: weights are a .pth, .pt or .safetensors file (or .bin, .ckpt, "
            ".tar of torch.save)"
        )
    try:
        with open(path, "rb", opener=regular_file) as file:
            fault = find_fault(file.read(512))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if fault:
        raise ValueError(f"{path} {fault}")
    if path.suffix.lower() == ".safetensors":
        arrays, _ = read_safetensors(path)
    else:
        arrays = _torch_arrays(path, key)
    if not arrays:
        raise ValueError(f"{path} holds no tensors")
    found = plain_names(arrays)
    _report_dropped(path, arrays, found)
    try:
        arrays = current_names(found)
    except CheckpointError as error:
        raise ValueError(f"{path} {error}") from None
    foreign = foreign_names(arrays)
    if foreign:
        raise ValueError(f"{path} {foreign}")
    return arrays


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata; float16 and bfloat16 become float32.

    Raises:
      ValueError: the file is damaged, or holds a type that numpy does not have.
    """
    try:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118  the handle is no dict
                kind = file.get_slice(name).get_dtype()
                if not re.fullmatch(r"BOOL|BF16|F(16|32|64)|[IU](8|16|32|64)", kind):
                    raise ValueError(f"{path}: {name} has the unsupported type {kind}")
            arrays = {name: _upcast(file.get_tensor(name)) for name in file.keys()}
            return arrays, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}): get it again"
        ) from None


def _upcast(array: np.ndarray) -> np.ndarray:
    """Half precision as a float32 copy; anything else as it is.

    numpy converts float16 number by number; looking them up, in pieces that fit the
    cache, takes two thirds of the time, and gives the same bits.
    """
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype != np.float16:
        return array
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint16)
    wide = np.empty(bits.shape, np.float32)
    for start in range(0, bits.size, _PIECE):
        piece = slice(start, start + _PIECE)
        # "clip" spares a check and changes nothing: there is an entry for all 16 bits.
        _FLOAT16.take(bits[piece].astype(np.intp), out=wide[piece], mode="clip")
    return wide.reshape(array.shape)


def _torch_arrays(path: Path, key: str | None) -> dict[str, np.ndarray]:
    """The tensors, none a view of the file, which may change while they live."""
    loaded = read_torch(path)
    try:
        found = find_state_dict(loaded, key=key)
    except CheckpointError as error:
        raise ValueError(f"{path} {error}") from None
    arrays = {}
    for name, array in found.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            kind = "Tensor" if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(
                f"{path}: the entry {quoted(name)} is a {kind}, not a tensor; save "
                "model.state_dict() alone"
            )
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise ValueError(
                f"{path}: {quoted(name)} is no plain tensor ({array.dtype}); save it "
                "as dense float32"
            )
        wide = _upcast(array)
        copy = True if wide is array and not _is_whole(array) else None
        arrays[name] = np.array(wide, order="C", copy=copy)
    return arrays


def _is_whole(array: np.ndarray) -> bool:
    """Whether `array` is all of memory that numpy holds, and no part of a file."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return root.flags.owndata and root.nbytes == array.nbytes


def _report_dropped(
    path: Path, arrays: dict[str, np.ndarray], kept: dict[str, np.ndarray]
) -> None:
    there = set(map(id, kept.values()))
    lost = [
        name
        for name, array in arrays.items()
        if id(array) not in there and name not in NO_TENSORS_OF_A_MODEL
    ]
    if lost:
        warnings.warn(
            f"{path}: left out what stands beside the model in it: {listed(lost)}",
            stacklevel=3,
        )
