"""Our side of `benchmarks.cifar10`, `.repeats` and `.gpu`: `experiments.cifar10`."""

import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.worker import Case
from experiments import cifar10
from experiments.command.console import Console
from experiments.command.options import parse
from experiments.training.classifier import make_classifier, open_data
from experiments.training.recipe import ClassifierRecipe
from experiments.training.training import compute_type
from jaxvision import ops
from jaxvision.data import Dataset, Split


def epoch(*, preset: str, images: int) -> Case:
    """An epoch over `images` made images by the recipe of a preset."""
    config = parse(
        cifar10.Config, ["--preset", preset], prog="", presets=cifar10.PRESETS
    )
    training, model = _training(config, images)
    plan, state = training.plan, training.start(model)
    sums = plan.no_sums()

    def run(calls):
        nonlocal state, sums
        for call in range(calls):
            state, sums = plan.run(state, sums, epoch=call, start=0, stop=plan.steps)
        jax.block_until_ready(sums)

    run(1)
    return Case(run, {"backend": ops.backend(), "batch": config.batch_size})


def repeats(*, net: str, images: int, seeds: int, together: bool) -> Case:
    """An epoch of as many runs as there are `seeds`, by the preset original_cnn.

    In one program, or one after the other.
    """
    argv = ["--preset", "original_cnn", "--model", net]
    config = parse(cifar10.Config, argv, prog="", presets=cifar10.PRESETS)
    training, model = _training(config, images)
    plan = training.plan
    # Copies, for each is donated.
    begun = jax.tree.map(jnp.copy, (training.start(model), plan.no_sums()))
    runs = [jax.tree.map(jnp.copy, begun) for _ in range(seeds)]
    keys = jax.random.split(plan.key, seeds)
    orders = jnp.stack([plan.order(seed) for seed in range(seeds)])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)

    def run(calls):
        nonlocal stacked
        for _ in range(calls):
            if together:
                stacked = training.run_seeds(
                    *stacked, plan.data, orders, 0, plan.steps, keys
                )
                continue
            for seed in range(seeds):
                runs[seed] = plan.run_steps(
                    *runs[seed], plan.data, orders[seed], 0, plan.steps, keys[seed]
                )
        jax.block_until_ready((runs, stacked))

    run(1)
    return Case(run, {"backend": ops.backend(), "batch": config.batch_size})


def record(*, data: str, argv: list[str], seeds: int) -> Case:
    """The preset speed, so many times; its facts have each run's seconds and accuracy.

    As the records count it: the whitening, all epochs, and the answers for the
    validation images by six views; neither compilation nor the data's way here.
    """
    argv = ["--preset", "speed", "--data", data, *argv]
    config = parse(cifar10.Config, argv, prog="", presets=cifar10.PRESETS)
    console = Console()
    dataset = open_data(config.data, cifar10.CIFAR10, train_size=32, console=console)
    dtype = compute_type(config.dtype, console=console)
    recipe = replace(ClassifierRecipe.of(config), dtype=dtype)
    labels = jnp.asarray(dataset.val.labels)
    facts = {"seconds": [], "accuracy": []}
    classifier = None
    for seed in range(-1, seeds):  # the first one compiles
        begun = time.perf_counter()
        cifar10.whitened(dataset)
        whitening = time.perf_counter() - begun
        start = cifar10.build(config.model[0], dataset, dropout=None, seed=max(seed, 0))
        classifier = classifier or make_classifier(
            dataset, start, recipe, console=console
        )
        training = classifier.seeded(max(seed, 0)).training
        plan, state = training.plan, jax.block_until_ready(training.start(start.model))
        begun = time.perf_counter()
        for epoch in range(plan.epochs):
            state, _ = plan.run_steps(
                *(state, plan.no_sums(), plan.data, plan.order(epoch)),
                *(0, plan.steps, plan.key),
            )
        logits = classifier.predict(state.params, state.stats)
        accuracy = float((logits.argmax(-1) == labels).mean())
        if seed >= 0:
            facts["seconds"].append(whitening + time.perf_counter() - begun)
            facts["accuracy"].append(accuracy)
    known = {"backend": ops.backend(), "batch": config.batch_size, "dtype": dtype}
    return Case(lambda calls: None, facts | known)


def _training(config, images):
    """The training of made images, and a model."""
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        np.arange(images, dtype=np.int32) % 10,
        tuple(map(str, range(images))),
    )
    classes = tuple(map(str, range(10)))
    dataset = Dataset(name="noise", classes=classes, train=split, val=split)
    (name,) = config.model
    start = cifar10.build(name, dataset, dropout=config.dropout, seed=0)
    console = Console()
    dtype = compute_type(config.dtype, console=console)
    recipe = replace(ClassifierRecipe.of(config), dtype=dtype)
    training = make_classifier(dataset, start, recipe, console=console).training
    return training, start.model
