"""From a configuration, photographs and a network to what the epoch loop takes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.bundle import save_bundle
from experiments.config import UsageError
from experiments.loop import Plan
from experiments.run import Reporter
from jaxvision import image_metrics, models, optim, parallel, train
from jaxvision.data.pairs import SCALE, enlarge, random_pairs, reduce
from jaxvision.data.pieces import Pieces, Whole, centre
from jaxvision.functional import functionalize, order_of_use
from jaxvision.perceptual import Perceptual
from jaxvision.preprocess import Preprocessing, to_float
from jaxvision.typing import Apply, Array, Batch, LossFn, Metrics, Tree

if TYPE_CHECKING:
    from experiments.superres import Config

VAL_SIDE = 256
"""Largest side of the squares by which epochs are compared."""
MOST_DB = 100.0
"""What the PSNR of equal images, which is infinite, counts in a mean."""
MEASURED = 8
"""Photographs by which the features of the perceptual loss are measured."""
JITTER = {"flips": 0.0, "full": 0.2}
"""Largest change of brightness, contrast and saturation, by `--augment`."""


def make_plan(
    config: "Config", photos: Pieces, model: nnx.Module, perceptual: Perceptual | None
) -> tuple[train.TrainState, Plan]:
    """The first state, and what the loop needs.

    Raises:
      UsageError: the batch does not fit the devices or the data.
    """
    mesh = parallel.make_mesh()
    try:
        parallel.check_batch_size(config.batch_size, mesh)
    except ValueError as error:
        raise UsageError(f"--batch-size: {error}") from error
    repeat = config.repeat or 1
    crops = repeat * len(photos.images)
    steps = crops // config.batch_size
    if steps == 0:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {crops} crops of an "
            f"epoch: {len(photos.images)} pieces of photos, --repeat {repeat}"
        )
    epochs = config.epochs or 1
    apply, params, stats = functionalize(
        model, dtype=jnp.bfloat16 if config.dtype == "bfloat16" else None
    )
    # Of a network of its own, because the first has its compute type for good.
    exact, _, _ = functionalize(models.abstract(config.model))
    schedule = optim.make_schedule(config.optim, steps_per_epoch=steps, epochs=epochs)
    crop = jax.ShapeDtypeStruct((1, config.crop_size, config.crop_size, 3), jnp.float32)
    layers = order_of_use(exact, params, stats, crop)
    tx = optim.make_optimizer(config.optim, schedule, layers=layers)
    place = partial(jax.device_put, device=parallel.replicated(mesh))
    use = config.loss == "mse+perceptual"
    loss_fn = make_loss(perceptual if use else None, weight=config.perceptual_weight)
    step = train.make_train_step(apply, loss_fn, tx, ema=config.ema)

    def step_on_crops(state: train.TrainState, batch: Batch, key: Array):
        # A stream of its own, beside the one that the step folds from the same key.
        pair_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
        images, targets = random_pairs(
            pair_key,
            batch["image"],
            batch["size"],
            crop_size=config.crop_size,
            jitter=JITTER[config.augment],
        )
        return step(state, {"image": images, "target": targets}, key)

    validate = make_validate(exact)
    squares = place(centre_squares(photos.val))

    def evaluate(state: train.TrainState) -> dict[str, float]:
        psnr, ssim = validate(*train.evaluated(state), squares)
        return {"val_psnr": float(psnr), "val_ssim": float(ssim)}

    def keep_best(state: train.TrainState, folder: Path) -> None:
        save_bundle(
            folder / "model.safetensors",
            config.model,
            *train.evaluated(state),
            classes=(),
            preprocessing=Preprocessing(),
        )

    plan = Plan(
        run_steps=train.make_epoch(
            step_on_crops,
            lambda _, images: images,
            batch_size=config.batch_size,
            mesh=mesh,
        ),
        data=place({"image": photos.images, "size": photos.sizes}),
        fingerprint=_fingerprint(photos),
        metrics=("loss",),
        batch_size=config.batch_size,
        epochs=epochs,
        key=place(jax.random.key(config.seed)),
        evaluate=evaluate,
        learning_rate=schedule,
        # The perceptual loss pays with PSNR for what it gains: the last epoch counts.
        judged_by="epoch" if use else "val_psnr",
        keep_best=keep_best,
        repeat=repeat,
    )
    return place(train.init_state(params, stats, tx, ema=config.ema)), plan


def make_loss(perceptual: Perceptual | None, *, weight: float) -> LossFn:
    """`loss_fn(out, batch) -> (loss, metrics)` over `batch["target"]`.

    The mean squared error and, where there is one, `weight` times the perceptual loss.
    """

    def loss_fn(out: Array, batch: Batch) -> tuple[Array, Metrics]:
        target = batch["target"]
        loss = jnp.square(out - target).mean()
        if perceptual is not None:
            features = perceptual.features(target)
            loss = loss + weight * perceptual.loss(out, features)
        return loss, {"loss": loss}

    return loss_fn


def make_validate(apply: Apply) -> Callable[[Tree, Tree, Array], tuple[Array, Array]]:
    """`validate(params, stats, images) -> (psnr, ssim)`, means over uint8 images.

    Both are of the luma, `SCALE` pixels from the border on, rounded to 8 bits.
    """

    def one(params, stats, image):
        truth = to_float(image)[None]
        out = jnp.clip(apply(params, stats, enlarge(reduce(truth)))[0], 0, 1)
        options = {"border": SCALE, "luma": True, "quantize": True}
        psnr = image_metrics.psnr(out, truth, **options)[0]
        return jnp.minimum(psnr, MOST_DB), image_metrics.ssim(out, truth, **options)[0]

    @jax.jit
    def validate(params, stats, images):
        psnr, ssim = jax.lax.map(partial(one, params, stats), images)
        return psnr.mean(), ssim.mean()

    return validate


def make_relative(perceptual: Perceptual, images: np.ndarray) -> Perceptual:
    """The loss with each layer in units of the mean square of its features.

    VGG16's features are of the order of 1 with some weights and of 100 with others;
    as a share, neither `--perceptual-weight` nor the figures depend on that.

    Args:
      perceptual: any weights of its layers are replaced.
      images: uint8 `(n, h, w, 3)`, of which the features are measured.
    """

    @jax.jit
    def squares(image):
        features = perceptual.features(to_float(image)[None])
        return {name: jnp.square(x).mean() for name, x in features.items()}

    every = [squares(image) for image in images]
    layers = tuple(
        (name, len(every) / sum(float(one[name]) for one in every))
        for name, _ in perceptual.layers
    )
    return replace(perceptual, layers=layers)


def make_distance(
    perceptual: Perceptual,
) -> Callable[[Sequence[np.ndarray], np.ndarray], list[float]]:
    """`distance(images, truth)`: the perceptual loss of each image, uint8 `(h, w, 3)`.

    One program for each shape.
    """
    features = jax.jit(lambda image: perceptual.features(to_float(image)[None]))
    loss = jax.jit(lambda image, wanted: perceptual.loss(to_float(image)[None], wanted))

    def distance(images: Sequence[np.ndarray], truth: np.ndarray) -> list[float]:
        wanted = features(truth)
        return [float(loss(image, wanted)) for image in images]

    return distance


def dry_run(state: train.TrainState, plan: Plan, report: Reporter) -> dict[str, float]:
    """One training step and one evaluation, nothing written."""
    state, sums = plan.run_steps(
        state, plan.no_sums(), plan.data, plan.order(0), 0, 1, plan.key
    )
    numbers = {"train_loss": float(sums["loss"]), **plan.evaluate(state)}
    report.say(
        f"dry run: one step of {plan.steps} an epoch, loss "
        f"{numbers['train_loss']:.3g}; nothing was written"
    )
    return numbers


def centre_squares(photos: Sequence[Whole], *, count: int | None = None) -> np.ndarray:
    """The centres of the photographs, as large as the smallest of all allows.

    uint8 `(n, side, side, 3)`, of the first `count` photographs or of all.
    """
    side = min(VAL_SIDE, *(min(photo.image.shape[:2]) for photo in photos))
    return np.stack([centre(photo.image, side) for photo in photos[:count]])


def _fingerprint(photos: Pieces) -> str:
    digest = hashlib.sha256()
    for array in (photos.sizes, photos.images):
        digest.update(array.data)
    return digest.hexdigest()
