"""Checkpoints as people save them: the `state_dict` in what a training script kept."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from converters.torch_file.errors import quoted

WRAPPERS = (
    *("state_dict", "model", "model_state_dict", "model_state", "net", "network"),
    *("net_state_dict", "weights", "params", "module", "backbone", "encoder"),
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema"),
    *("teacher", "student"),
)
"""The keys under which scripts keep a model among other things."""

PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.")
"""What data parallelism, compilation and modules around a model put before names."""

_BODIES = ("model.", "backbone.", "encoder.", "net.")
"""The prefixes beside which a module may have a head of its own."""

_HEADS = re.compile(
    r"(head|fc|classifier|linear|projector|projection_head|predictor)\."
)
_OWN_HEADS = ("fc", "classifier")
"""Heads that are the model's own where it has none under the prefix."""

NO_TENSORS_OF_A_MODEL = ("n_averaged",)
"""What torch's AveragedModel keeps beside the model."""

_LEVELS = 3  # of wrappers in each other
_PREFIXES_IN_A_ROW = 8

_FOREIGN = {
    r"(.*\.)?(embedder|embeddings)\.|(.*\.)?encoder\.(layer|stages)\.\d": (
        "Hugging Face transformers"
    ),
    r"conv_stem\.|patch_embed\.|pre_logits\.|head\.fc\.|stem\.\d|stages\.\d"
    r"|blocks\.\d+\.(\d+\.(conv_|se\.|bn\d)|attn\.|mlp\.)": "timm",
    r"(.*\.)?(rpn|roi_heads)\.|backbone\.body\.": "a detector",
}
_OURS = re.compile(r"features\.\d|features\.conv0|conv1\.|Conv2d_|layer\d\.\d")


class CheckpointError(ValueError):
    """A checkpoint without one plain `state_dict`; the text says what to do."""


def find_state_dict(loaded: Any, *, key: str | None = None) -> Mapping[Any, Any]:
    """The `state_dict` itself, also where it was saved among other things.

    Args:
      loaded: what `torch.save` was given.
      key: the entry that holds it; without one it must be the only candidate.

    Raises:
      CheckpointError: there is none, or a choice is to be made.
    """
    if not isinstance(loaded, Mapping):
        kind = "Tensor" if isinstance(loaded, np.ndarray) else type(loaded).__name__
        raise CheckpointError(
            f"holds a {kind}, not a state_dict: re-save it with "
            "torch.save(model.state_dict(), FILE)"
        )
    for _ in range(_LEVELS):
        found = _inner(loaded, key)
        if found is loaded:
            break
        loaded, key = found, None
    return loaded


def _inner(loaded: Mapping[Any, Any], key: str | None) -> Mapping[Any, Any]:
    """The state_dict in `loaded`, or what it may be inside; `loaded` where it is it."""
    inner = {
        name: value
        for name, value in loaded.items()
        if isinstance(name, str) and isinstance(value, Mapping)
    }
    if key is not None:
        if key not in inner:
            raise CheckpointError(
                f"has no state_dict under {quoted(key)}; there is "
                f"{listed(inner) or 'none at all'}"
            )
        return inner[key]
    sizes = {name: len(value) for name, value in inner.items() if _has_tensors(value)}
    named = [name for name in sizes if name in WRAPPERS]
    bare = any(isinstance(value, np.ndarray) for value in loaded.values())
    if bare and not named:
        return loaded
    # Not the few tensors of a loss or a scaler, which stand beside the model.
    most = max((sizes[name] for name in named or sizes), default=0)
    names = [name for name, size in sizes.items() if 2 * size >= most]
    if len(names) > 1:
        raise CheckpointError(
            f"holds several models, {listed(names)}: name one of them, as FILE:KEY, "
            f"for example {quoted(f'FILE:{names[0]}')}"
        )
    if names:
        return inner[names[0]]
    return next((inner[name] for name in inner if name in WRAPPERS), loaded)


def listed(names: Iterable[str], *, limit: int = 8) -> str:
    """The first of `names`, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(quoted, names[:limit])) + more


def _has_tensors(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(x, np.ndarray) for x in value.values())


def plain_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`arrays` under the names that the model itself gives them.

    The prefixes of `PREFIXES` go where all names have them, in any order and number.
    Where one is missing from a head alone, which a module around the model added, that
    head is left out, unless the model has no head of that name. A linear layer behind a
    dropout, `fc.1`, becomes `fc`.
    """
    arrays = {k: v for k, v in arrays.items() if k not in NO_TENSORS_OF_A_MODEL}
    for _ in range(_PREFIXES_IN_A_ROW):
        for prefix in PREFIXES:
            rest = [name for name in arrays if not name.startswith(prefix)]
            if len(rest) == len(arrays):
                continue
            if not rest or (prefix in _BODIES and all(map(_HEADS.match, rest))):
                break
        else:
            break
        body = {
            name.removeprefix(prefix): value
            for name, value in arrays.items()
            if name.startswith(prefix)
        }
        tops = {name.split(".")[0] for name in body}
        heads = {
            name: arrays[name]
            for name in rest
            if name.split(".")[0] in _OWN_HEADS and name.split(".")[0] not in tops
        }
        arrays = body | heads
    return _plain_head(arrays)


def _plain_head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`fc.1.weight` as `fc.weight`, where `fc` is a dropout and a linear layer."""
    found = sorted(name for name in arrays if name.startswith("fc."))
    match = re.fullmatch(r"fc\.\d\.bias fc\.\d\.weight", " ".join(found))
    if not match or found[0][3] != found[1][3]:
        return arrays
    return {f"fc.{k[5:]}" if k in found else k: v for k, v in arrays.items()}


_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
"""torchvision's DenseNet files are older than its DenseNet: `norm.1` is `norm1` now."""
_TIMM_VGG = {
    "pre_logits.fc1.": "classifier.0.",
    "pre_logits.fc2.": "classifier.3.",
    "head.fc.": "classifier.6.",
}
"""timm's VGG ends in convolutions, of 7 x 7 and of one pixel. The rest of it, and its
ResNets and DenseNets, have torchvision's own names."""


def current_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`arrays` under the names, and in the shapes, of torchvision today.

    Raises:
      CheckpointError: two tensors have the same name there.
    """
    is_timm = getattr(arrays.get("pre_logits.fc1.weight"), "ndim", 0) == 4
    found = {}
    for name, array in arrays.items():
        name = _OLD_DENSENET.sub(r"\1", name)
        if is_timm and (old := next(filter(name.startswith, _TIMM_VGG), None)):
            name = _TIMM_VGG[old] + name.removeprefix(old)
            if array.ndim == 4:
                array = array.reshape(len(array), -1)
        if name in found:
            raise CheckpointError(
                f"holds {quoted(name)} under both its old and its new name"
            )
        found[name] = array
    return found


def foreign_names(names: Mapping[str, Any]) -> str | None:
    """Why `names` are those of another library's models; none, they are not."""
    if any(map(_OURS.match, names)):
        return None
    for pattern, source in _FOREIGN.items():
        found = next(filter(re.compile(pattern).match, names), None)
        if found is not None:
            return (
                f"has the names of {source} ({quoted(found)}), not torchvision's: "
                "give torchvision's own weights of the backbone, or a state_dict of "
                "its model in torchvision"
            )
    return None
