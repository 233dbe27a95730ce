"""Optimisers and schedules with torch's arithmetic, and what of a model is trained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import optax
from flax import traverse_util

from jaxvision.functional import has_prefix
from jaxvision.typing import Tree

Path = tuple[str, ...]


@dataclass(frozen=True)
class Optim:
    """The optimiser and its learning-rate schedule."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd and adam add weight decay to the gradient, as in torch; adamw does not."""
    lr: float = 0.01
    """Largest learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 1e-4
    """Weight decay of all parameters."""
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
) -> optax.GradientTransformation:
    """The transform whose updates equal torch's `SGD`, `Adam` or `AdamW`.

    Args:
      config: which, and its settings.
      learning_rate: of the last layer, a number or a function of the step.
      layers: the paths of all trained layers, the first one first; needed where
        `first_layer_lr` is not 1, which is discriminative fine-tuning: Howard and
        Ruder, 2018, arXiv:1801.06146.
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
    return optax.chain(
        *clip,
        *parts[config.name](),
        optax.scale_by_learning_rate(learning_rate),
        *depth,
    )


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
