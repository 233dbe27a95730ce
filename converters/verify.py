"""Proof of parity: layers, gradients and training steps next to torchvision's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from converters import weights as weight_files
from converters.oracle import (
    default_sizes,
    odd_size,
    our_model,
    precision,
    random_images,
    state_arrays,
    torch_images,
    torch_model,
)
from converters.to_torch import to_state_dict
from jaxvision import losses, models, optim, train
from jaxvision.functional import functionalize, modules
from jaxvision.models.nodes import find

STEPS = 3
TRAIN_BATCH = 8
"""With two images, 100 layers of BatchNorm raise rounding errors to 1e-8 in 3 steps."""
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For forward passes, run once: LLVM's optimisations take longer than they save."""


class Bound(NamedTuple):
    """The largest differences allowed; training has none in float32."""

    logits: float
    training: float


BOUNDS = {"float32": Bound(1e-4, np.inf), "float64": Bound(1e-9, 1e-8)}


class Layer(NamedTuple):
    """One layer's differences, in standard deviations of torchvision's output."""

    name: str
    shape: tuple[int, ...]
    largest: float
    mean: float


class Worst(NamedTuple):
    """The largest relative difference over many tensors, and where it is."""

    difference: float
    where: str


@dataclass(frozen=True)
class Verification:
    """What one model's comparison with torchvision found.

    `logits` has the largest difference for each image size, in standard deviations of
    the logits; `layers` are those of the last size. `gradients`, the weight decay among
    them, are relative to each tensor's largest entry, as are `parameters` and
    `statistics` after `STEPS` steps.
    """

    name: str
    dtype: str
    weights: str
    size: int
    logits: dict[int, float]
    layers: tuple[Layer, ...]
    loss: Worst
    gradients: Worst
    parameters: Worst
    statistics: Worst

    @property
    def diverges(self) -> str | None:
        """The first layer, in the order of computation, beyond the logits' bound."""
        bound = BOUNDS[self.dtype].logits
        beyond = (row.name for row in self.layers if not row.largest <= bound)
        return next(beyond, None)

    @property
    def faults(self) -> list[str]:
        """One line for each bound that is broken; none where all is well."""
        bound = BOUNDS[self.dtype]
        lines = [
            f"{self.name}: logits at {size} pixels differ by {value:.1e} of their "
            f"standard deviation, over {bound.logits:.0e}; the first layer that "
            f"diverges is {self.diverges}"
            for size, value in self.logits.items()
            if not value <= bound.logits
        ]
        return lines + [
            f"{self.name}: {what} differ by {worst.difference:.1e}, over "
            f"{bound.training:.0e}, most in {worst.where}"
            for what, worst in (
                ("losses", self.loss),
                ("gradients", self.gradients),
                (f"parameters after {STEPS} steps", self.parameters),
                (f"statistics after {STEPS} steps", self.statistics),
            )
            if not worst.difference <= bound.training
        ]


def run(
    name: str,
    *,
    weights: Path | None,
    size: int | None,
    dtype: str,
    batch: int = 2,
) -> Verification:
    """Compares one model with torchvision's, layer by layer and in training.

    Args:
      name: a row of `models.names()` or an alias.
      weights: a file for `weights.load_state_dict`; else seeded random weights, with
        biases and BatchNorm randomised, so that no tensor can stand for another.
      size: height and width of the images; by default the smallest that the model
        takes, an even and an odd one, and 224 for the models of `MISSION`. Training has
        the odd one at least: BatchNorm's gradient over one or two values is noise.
      dtype: "float32" or "float64".
      batch: images at a time; `TRAIN_BATCH` at least in training.

    Raises:
      ValueError: no such model or dtype, or unfit weights.
      ModuleNotFoundError: torch or torchvision is missing.
    """
    if dtype not in BOUNDS:
        raise ValueError(f"dtype {dtype!r} is none of {', '.join(BOUNDS)}")
    name = models.variant(name).name
    sizes = default_sizes(name) if size is None else (size,)
    train_size = max(size or 0, odd_size(name))
    with precision(dtype):
        net = torch_model(name, weights=weights, dtype=dtype)
        found: dict[int, tuple[float, tuple[Layer, ...]]] = {}
        for side in sizes:
            images = random_images(batch, side, dtype=dtype)
            found[side] = compare_layers(name, net, images)
        images = random_images(max(batch, TRAIN_BATCH), train_size, dtype=dtype)
        training = compare_training(name, net, images)
    return Verification(
        name=name,
        dtype=dtype,
        weights="random" if weights is None else str(weights),
        size=sizes[-1],
        logits={side: logits for side, (logits, _) in found.items()},
        layers=found[sizes[-1]][1],
        **training,
    )


def compare_layers(
    name: str, net: Any, images: np.ndarray
) -> tuple[float, tuple[Layer, ...]]:
    """The logits' difference, and each layer's in the order of computation."""
    import torch

    model = our_model(name, net)
    shared = [path for path, _ in net.named_modules() if path and _has(model, path)]
    layers = models.capture([*shared, ""])
    apply, params, stats = functionalize(model, forward=layers)
    ours = jax.jit(lambda *args: apply(*args)[0], compiler_options=QUICK)(
        params, stats, images
    )
    outputs = {layer: np.asarray(array) for layer, array in ours.items()}
    rows: dict[str, Layer] = {}

    def compare(path: str, theirs) -> None:
        if path not in rows:  # a module's later calls are other layers
            rows[path] = _layer(path, outputs.pop(path), theirs.detach().numpy())

    hooks = [
        module.register_forward_hook(
            # At once, because an in-place ReLU would change what it is given.
            lambda _, __, output, path=path: compare(path, output)
        )
        for path, module in net.named_modules()
        if path in shared
    ]
    with torch.no_grad():
        logits = net.eval()(torch_images(images))
    for hook in hooks:
        hook.remove()
    return _layer("", outputs[""], logits.numpy()).largest, tuple(rows.values())


def _has(model: nnx.Module, path: str) -> bool:
    try:
        return bool(find(model, path))
    except ValueError:
        return False


def _layer(path: str, ours: np.ndarray, theirs: np.ndarray) -> Layer:
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    theirs = theirs.reshape(ours.shape)
    difference = np.abs(ours - theirs)
    scale = max(float(theirs.std()), np.finfo(theirs.dtype).tiny)
    largest, mean = float(difference.max()), float(difference.mean())
    return Layer(path, theirs.shape, largest / scale, mean / scale)


def compare_training(name: str, net: Any, images: np.ndarray) -> dict[str, Worst]:
    """Losses, first gradients, and what `STEPS` steps of SGD lead to; changes `net`."""
    model = our_model(name, net)
    for _, module in modules(model):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    head = net.get_submodule(models.variant(name).head)
    labels = np.arange(len(images), dtype=np.int32) * 7 % head.out_features
    config = optim.Optim(lr=0.01, momentum=0.9, weight_decay=1e-4, schedule="constant")
    theirs = _train_torch(net, images, labels, config)
    ours = _train_ours(model, images, labels, config)
    learned = {key for key, _ in net.named_parameters()}
    return {
        "loss": _worst(ours.losses, theirs.losses),
        "gradients": _worst(ours.gradients, theirs.gradients),
        "parameters": _worst(ours.state, theirs.state, keys=learned),
        "statistics": _worst(
            ours.state, theirs.state, keys=theirs.state.keys() - learned
        ),
    }


class _Trained(NamedTuple):
    """`gradients` have the weight decay in them: the first step's momentum."""

    losses: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


def _train_torch(net, images, labels, config: optim.Optim) -> _Trained:
    import torch

    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    x, y = torch_images(images), torch.from_numpy(labels).long()
    seen, gradients = {}, {}
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        seen[f"step {step}"] = loss.detach().numpy()
        optimizer.step()
        if step == 1:
            gradients = {
                name: optimizer.state[tensor]["momentum_buffer"].numpy().copy()
                for name, tensor in net.named_parameters()
            }
    optimizer.zero_grad()
    return _Trained(seen, gradients, state_arrays(net))


def _train_ours(model, images, labels, config: optim.Optim) -> _Trained:
    apply, params, stats = functionalize(model)
    tx = optim.make_optimizer(config, config.lr)
    state: Any = train.init_state(params, stats, tx)
    del params, stats
    step = train.make_train_step(apply, losses.classification(), tx)
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    key = jax.random.key(0)
    seen, gradients = {}, {}
    for index in range(1, STEPS + 1):
        state, metrics = step(state, batch, key)
        seen[f"step {index}"] = np.asarray(metrics["loss"])
        if index == 1:
            momentum: Any = next(
                part.trace
                for part in state.opt_state
                if isinstance(part, optax.TraceState)
            )
            gradients = to_state_dict(model, momentum, state.stats)
    return _Trained(seen, gradients, to_state_dict(model, state.params, state.stats))


def _worst(ours, theirs, *, keys=None) -> Worst:
    """The largest difference relative to the largest entry of each tensor."""
    worst = Worst(0.0, "none")
    for name in sorted(theirs if keys is None else keys):
        scale = max(float(np.abs(theirs[name]).max()), np.finfo(np.float32).tiny)
        difference = float(np.abs(ours[name] - theirs[name]).max() / scale)
        if not difference <= worst.difference:
            worst = Worst(difference, name)
    return worst


def layer_table(found: Verification) -> str:
    """One line a layer, in the order of computation; `<-` where it first diverges."""
    width = max(len(row.name) for row in found.layers)
    lines = [f"{'layer':{width}}  {'shape':>19}  {'largest':>8}  {'mean':>8}"]
    for row in found.layers:
        shape = "x".join(map(str, row.shape))
        mark = "  <- diverges" if row.name == found.diverges else ""
        numbers = f"{row.largest:8.1e}  {row.mean:8.1e}"
        lines.append(f"{row.name:{width}}  {shape:>19}  {numbers}{mark}")
    return "\n".join(lines)


def table(found: Sequence[Verification]) -> str:
    """The parity table in Markdown, a row a model, as the README shows it."""
    lines = [
        "| model | parameters | torchvision's top-1 | logits | gradients | "
        f"{STEPS} steps |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        row = weight_files.find(one.name)
        steps = max(w.difference for w in (one.loss, one.parameters, one.statistics))
        lines.append(
            f"| {one.name} | {row.params:,} | {row.acc1:.2f} | "
            f"{max(one.logits.values()):.1e} | {one.gradients.difference:.1e} | "
            f"{steps:.1e} |"
        )
    return "\n".join(lines)
