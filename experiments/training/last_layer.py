"""The last layer by itself, and what else of a model is not trained."""

import time
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.rules import RULES
from experiments.command.console import Console
from experiments.command.options import UsageError
from experiments.training.recipe import ClassifierRecipe
from experiments.training.training import (
    Start,
    Trainable,
    Training,
    compute_dtype,
    layers_of,
    make_layout,
)
from jaxvision import models, train
from jaxvision.data import Progress
from jaxvision.data.lazy import LazyImages
from jaxvision.functional import has_prefix, modules, replace_arrays
from jaxvision.linear_probe import split_head, trains_head_alone
from jaxvision.optim import Optim
from jaxvision.stream import Images, outputs
from jaxvision.typing import Apply, Array, Transform

HEAD = Optim(name="adamw", lr=3e-3, weight_decay=1e-2)
"""For the last layer alone, whose inputs are computed once."""


def head_phase(recipe: ClassifierRecipe, *, epochs: int) -> ClassifierRecipe:
    """The recipe of epochs in which the last layer alone is trained."""
    return replace(
        recipe,
        epochs=epochs,
        optim=HEAD,
        augment="none",
        mix="none",
        freeze="backbone",
        tta="none",
        ema=0.0,
    )


def is_trained_alone(
    start: Start, trained: Trainable, recipe: ClassifierRecipe
) -> bool:
    """Whether the last layer alone is trained, on images that never change."""
    head = models.variant(start.name).head
    same = (recipe.augment, recipe.mix, recipe.tta) == ("none", "none", "none")
    return same and trains_head_alone(start.model, head=head, frozen=trained.frozen)


def split_last(
    start: Start, trained: Trainable, recipe: ClassifierRecipe, photos: Transform
) -> tuple[Callable[..., tuple[Array, np.ndarray]], Apply]:
    """`see(images, progress)`, all that comes before the last layer; and that layer.

    The first gives what it sees, and of which of the images: those that can be read.
    """
    layout = make_layout(recipe)
    layers_of(trained)  # says so where the images are too small
    body, last = split_head(
        start.model,
        head=models.variant(start.name).head,
        dtype=compute_dtype(recipe),
    )
    step = train.make_eval_step(
        layout.gathered(body),
        # Without augmentation a key means the centre crop, which validation images are.
        [lambda _, batch: photos(jax.random.key(0), batch)],
        batch_size=recipe.batch_size,
        mesh=layout.mesh,
    )

    params, stats = layout.place((trained.params, trained.stats))

    def see(images: Images, progress: Progress) -> tuple[Array, np.ndarray]:
        if isinstance(images, LazyImages):
            out, there = outputs(
                step,
                params,
                stats,
                images,
                batch_size=recipe.batch_size,
                mesh=layout.mesh,
                progress=progress,
            )
            return out, np.flatnonzero(there)
        found = []
        for begin in range(0, len(images), recipe.batch_size):
            batch = images[begin : begin + recipe.batch_size]
            found.append(step(params, stats, batch))
            progress(min(begin + recipe.batch_size, len(images)), len(images))
        return jnp.concatenate(found), np.arange(len(images))

    return see, last


def frozen_prefixes(name: str, freeze: str) -> tuple[str, ...]:
    """The path prefixes that `--freeze` names.

    Args:
      name: a row of the models.
      freeze: none, backbone, or prefixes with commas between.

    Raises:
      UsageError: a prefix fits no layer.
    """
    if freeze == "none":
        return ()
    # Dropout is frozen too: the last layer then sees the same of a photo each time.
    layers = {
        ".".join(map(str, path))
        for path, module in modules(models.abstract(name))
        if type(module) in (*RULES, nnx.Dropout)
    }
    if freeze == "backbone":
        return tuple(sorted(layers - {models.variant(name).head}))
    prefixes = tuple(part.strip() for part in freeze.split(","))
    for prefix in prefixes:
        if not prefix or not any(
            has_prefix(tuple(layer.split(".")), (prefix,)) for layer in layers
        ):
            tops = ", ".join(sorted({layer.split(".")[0] for layer in layers}))
            raise UsageError(
                f"--freeze: no layer of {name} lies under {prefix!r}; it has {tops}"
            )
    return prefixes


def fit_head(training: Training, model: nnx.Module, console: Console) -> None:
    """Trains as `training` says, in one go and without a folder, into `model`."""
    plan, state = training.plan, training.start(model)
    begun = time.perf_counter()
    for epoch in range(plan.epochs):
        state, sums = plan.run(
            state, plan.no_sums(), epoch=epoch, start=0, stop=plan.steps
        )
    plan.close()
    name, value = list(plan.evaluate(state).items())[-1]
    replace_arrays(model, state.params, state.stats)  # the old ones are donated
    console.say(
        f"last layer alone: {plan.epochs} epochs in "
        f"{time.perf_counter() - begun:.1f} s, "
        f"train loss {float(sums['loss']) / plan.steps:.4g}, "
        f"{name.replace('_', ' ')} {value:.2%}"
    )
