"""Optimisers and schedules with torch's arithmetic, and what of a model is trained."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.typing import ArrayLike

from jaxvision.functional import has_prefix
from jaxvision.typing import Array, Tree

Path = tuple[str, ...]


@dataclass(frozen=True)
class Optim:
    """The optimiser and its learning-rate schedule."""

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """sgd and adam add weight decay to the gradient, as in torch; adamw does not. muon,
    for nets with BatchNorm, keeps the norm of the convolutions' kernels, which it moves
    by orthogonal steps, and trains the rest by sgd."""
    lr: float = 0.01
    """Largest learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters; by muon, the share that those of sgd lose in a
    step at the largest learning rate."""
    head_lr: float = 2.0
    """Largest learning rate of linear layers where the optimiser is muon."""
    bias_lr: float = 100.0
    """Largest learning rate of biases where the optimiser is muon."""
    brief_epochs: int = 0
    """By muon, epochs after which the whitening layer of cnn_fast and cnn_lean stays as
    it is, its learning rate having fallen to zero; 0: it is trained like all biases."""
    schedule: Literal["constant", "step", "cosine", "linear"] = "cosine"
    """step: times gamma after each step-epochs; cosine and linear: to zero at the
    end."""
    step_epochs: int = 7
    """Epochs between two drops of the step schedule."""
    gamma: float = 0.1
    """Factor of each drop of the step schedule."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""
    first_layer_lr: float = 1.0
    """Learning rate of the first layer as a share of the last one's; between them it
    grows by the same factor from each layer to the next."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        limits = {
            "lr": self.lr > 0,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": self.weight_decay >= 0,
            "head_lr": self.head_lr > 0,
            "bias_lr": self.bias_lr > 0,
            "brief_epochs": self.brief_epochs >= 0,
            "step_epochs": self.step_epochs >= 1,
            "gamma": 0 < self.gamma <= 1,
            "warmup_epochs": self.warmup_epochs >= 0,
            "clip": self.clip >= 0,
            "first_layer_lr": self.first_layer_lr > 0,
        }
        for name, holds in limits.items():
            value = getattr(self, name)
            if not holds or value == math.inf:
                raise ValueError(f"optim.{name} cannot be {value}")


def make_schedule(
    config: Optim, *, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """The learning rate as a function of the step, counted from zero."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rest = max(1, epochs * steps_per_epoch - warmup)
    drops = range(
        config.step_epochs * steps_per_epoch, rest, config.step_epochs * steps_per_epoch
    )
    main = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "step": lambda: optax.piecewise_constant_schedule(
            config.lr, dict.fromkeys(drops, config.gamma)
        ),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, rest),
        "linear": lambda: optax.linear_schedule(config.lr, 0.0, rest),
    }[config.schedule]()
    if warmup == 0:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, config.lr, warmup), main], [warmup]
    )


def make_optimizer(
    config: Optim,
    learning_rate: float | optax.Schedule,
    *,
    layers: Sequence[Path] = (),
    brief: tuple[str, ...] = (),
    brief_steps: int = 0,
) -> optax.GradientTransformation:
    """The transform whose updates equal torch's `SGD`, `Adam` or `AdamW`, or Muon's.

    Args:
      config: which, and its settings.
      learning_rate: of the last layer, a number or a function of the step; by muon, of
        the convolutions' kernels, and the other groups' follow its course.
      layers: the paths of all trained layers, the first one first; needed where
        `first_layer_lr` is not 1, which is discriminative fine-tuning: Howard and
        Ruder, 2018, arXiv:1801.06146.
      brief: path prefixes of what muon trains in the first `brief_steps` steps alone,
        where these are not 0.
      brief_steps: how many.
    """
    decay = optax.add_decayed_weights(config.weight_decay)
    parts: dict[str, Callable[[], list[optax.GradientTransformation]]] = {
        "sgd": lambda: [
            decay,
            optax.trace(config.momentum, nesterov=config.nesterov),
        ],
        "adam": lambda: [decay, optax.scale_by_adam()],
        "adamw": lambda: [optax.scale_by_adam(), decay],
    }
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    depth = [_by_depth(config.first_layer_lr, layers)] * (config.first_layer_lr != 1)
    if config.name == "muon":
        briefly = (brief, brief_steps) if brief_steps else ((), 1)
        main = _muon(config, learning_rate, *briefly)
        return optax.chain(*clip, main, *depth, optax.stateless(_renormalized))
    return optax.chain(
        *clip,
        *parts[config.name](),
        optax.scale_by_learning_rate(learning_rate),
        *depth,
    )


SGD_MOMENTUM = 0.85
"""Nesterov's, of what muon leaves to sgd."""


def _muon(
    config: Optim,
    learning_rate: float | optax.Schedule,
    brief: tuple[str, ...],
    brief_steps: int,
) -> optax.GradientTransformation:
    """Muon for the kernels of convolutions, SGD for all else but BatchNorm's scales.

    The recipe of Keller Jordan's airbench94_muon, https://github.com/KellerJordan/
    cifar10-airbench, whose rates are of a sum over 2000 images: ours are of a mean.
    """

    def rate(step: ArrayLike) -> ArrayLike:
        return learning_rate(step) if callable(learning_rate) else learning_rate

    def sgd(lr: float, schedule: optax.Schedule) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay / lr),
            optax.trace(SGD_MOMENTUM, nesterov=True),
            optax.scale_by_learning_rate(schedule),
        )

    def following(lr: float) -> optax.GradientTransformation:
        return sgd(lr, lambda step: lr / config.lr * jnp.asarray(rate(step)))

    # Not `optax.contrib.scale_by_muon`: its momentum corrects a bias that a direction
    # has not, and releases differ in whether it scales by the matrix's shape.
    kernels = optax.chain(
        optax.trace(config.momentum, nesterov=config.nesterov),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalized, updates)),
        optax.scale_by_learning_rate(learning_rate),
    )
    groups: dict[Hashable, optax.GradientTransformation] = {
        "kernel": kernels,
        "linear": following(config.head_lr),
        "bias": following(config.bias_lr),
        "brief": sgd(
            config.bias_lr, optax.linear_schedule(config.bias_lr, 0.0, brief_steps)
        ),
        "scale": optax.set_to_zero(),
    }

    def group(path: Sequence[Any], leaf: Array) -> str:
        names = tuple(str(part.key) for part in path)
        if has_prefix(names, brief):
            return "brief"
        if names[-1] == "scale":
            return "scale"
        return {4: "kernel", 2: "linear"}.get(leaf.ndim, "bias")

    return optax.partition(
        groups, lambda params: jax.tree_util.tree_map_with_path(group, params)
    )


def orthogonalized(kernel: Array, *, steps: int = 3) -> Array:
    """A matrix near the nearest one with orthonormal rows or columns.

    Its singular vectors stay, its singular values come near one, those that are far
    smaller than the largest last.

    Args:
      kernel: `(..., cout)`, taken as a matrix of `cout` columns.
      steps: of Newton and Schulz's iteration.

    Reference: Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
    2024, https://kellerjordan.github.io/posts/muon.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (jnp.linalg.norm(x) + 1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.T
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return (x.T if tall else x).reshape(kernel.shape)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Of the powers 1, 3 and 5: steep at zero, so that few steps are enough."""


def _renormalized(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
    """Updates that also bring each kernel, before its step, to norm 1 a filter.

    That is to the root of the number of filters over all.
    """

    def change(update, param):
        if param.ndim != 4:
            return update
        norm = jnp.sqrt(jnp.square(param).sum())
        return update + (math.sqrt(param.shape[-1]) / norm - 1) * param

    return jax.tree.map(change, updates, params)


def _by_depth(first: float, layers: Sequence[Path]) -> optax.GradientTransformation:
    """Updates times a factor that grows from `first` to 1 along `layers`."""
    last = len(layers) - 1
    factors = {
        layer: first ** ((last - i) / max(1, last)) for i, layer in enumerate(layers)
    }

    def scale(updates, _):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: factors[tuple(str(k.key) for k in path[:-1])] * leaf,
            updates,
        )

    return optax.stateless(scale)


def split_frozen(params: Tree, frozen: tuple[str, ...]) -> tuple[Tree, Tree]:
    """`(trained, fixed)`: the leaves outside and under the `frozen` path prefixes."""
    flat = traverse_util.flatten_dict(params)
    sides: tuple[dict, dict] = ({}, {})
    for path, leaf in flat.items():
        sides[has_prefix(tuple(map(str, path)), frozen)][path] = leaf
    trained, fixed = map(traverse_util.unflatten_dict, sides)
    return trained, fixed


def join(trained: Tree, fixed: Tree) -> Tree:
    """The inverse of `split_frozen`."""
    flat = traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(fixed)
    return traverse_util.unflatten_dict(flat)
