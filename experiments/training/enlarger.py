"""What trains a network that enlarges photographs: data, a network and a recipe."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters import weights
from converters.bundle import save_bundle
from converters.from_torch import ConversionError, convert
from experiments.command import limits
from experiments.command.limits import at_least, limited
from experiments.command.options import UsageError, check_alike
from experiments.inference.enlarger import MOST_DB
from experiments.training.perceptual import make_loss
from experiments.training.recipe import Recipe
from experiments.training.training import (
    Start,
    Task,
    Training,
    make_mesh,
    make_trainable,
    make_training,
)
from jaxvision import image_metrics, models, parallel, train
from jaxvision.data.pairs import SCALE, pair_transform
from jaxvision.data.pieces import Pieces, Whole, centre
from jaxvision.functional import functionalize
from jaxvision.optim import Optim
from jaxvision.perceptual import Perceptual
from jaxvision.preprocess import Preprocessing
from jaxvision.typing import Apply, Array, Transform, Tree

VAL_SIDE = 256
"""Largest side of the squares by which epochs are compared."""
JITTER = {"flips": 0.0, "full": 0.2}
"""Largest change of brightness, contrast and saturation, by `--augment`."""


@dataclass(frozen=True)
class EnlargerRecipe(Recipe):
    """How a network is trained that enlarges photographs."""

    repeat: int = limited(32, at_least(1))
    """Crops of each photo an epoch."""
    batch_size: int = limited(16, at_least(1))
    """Crops a step, over all devices."""
    crop_size: int = limited(48, lambda size: 16 <= size <= 4096 and size % 2 == 0)
    """Side of the training crops in pixels; small ones learn as much in less time."""
    augment: Literal["flips", "full"] = "full"
    """flips: turns and mirrorings; full: and brightness, contrast and saturation by up
    to 20 %."""
    loss: Literal["mse", "mse+perceptual"] = "mse"
    """mse+perceptual: and the distance of VGG16's features, for sharper pictures."""
    perceptual_weight: float = limited(0.1, limits.positive)
    """Weight of the features' distance beside the mean squared error."""
    optim: Optim = field(
        default_factory=lambda: Optim(
            name="adam", lr=1e-3, weight_decay=0.0, clip=0.01, warmup_epochs=0.25
        )
    )
    """The optimiser and its schedule."""
    ema: float = limited(0.999, limits.share)
    """Decay of the average of the weights that is judged and kept; 0 keeps none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Compute type of the training; what is judged is always float32."""


def make_enlarger_training(
    photos: Pieces,
    start: Start,
    recipe: EnlargerRecipe,
    perceptual: Perceptual | None,
) -> Training:
    """All that trains a network on `photos` by a recipe.

    Args:
      photos: what for.
      start: what.
      recipe: how.
      perceptual: the second loss, where the recipe has one.

    Raises:
      UsageError: the batch does not fit the devices or the data.
    """
    crops = recipe.repeat * len(photos.images)
    if crops < recipe.batch_size:
        raise UsageError(
            f"--batch-size {recipe.batch_size} is more than the {crops} crops of an "
            f"epoch: {len(photos.images)} pieces of photos, --repeat {recipe.repeat}"
        )
    fingerprint = _fingerprint(photos.sizes, photos.images)
    judged = _fingerprint(*(photo.image for photo in photos.val))
    check_alike({"training photos": fingerprint, "photos to judge by": judged})
    mesh = make_mesh(recipe)
    place = partial(parallel.place, sharding=parallel.replicated(mesh))
    use = recipe.loss == "mse+perceptual"
    # In full precision, whatever the training computes in.
    exact, _, _ = functionalize(start.model)
    pairs = pair_transform(crop_size=recipe.crop_size, jitter=JITTER[recipe.augment])
    validate = make_validate(exact, pairs)
    squares = place(centre_squares(photos.val))

    def evaluate(params: Tree, stats: Tree) -> dict[str, float]:
        psnr, ssim = validate(params, stats, squares)
        return {"val_psnr": float(psnr), "val_ssim": float(ssim)}

    def keep(params: Tree, stats: Tree, folder: Path) -> None:
        save_bundle(
            folder / "model.safetensors",
            start.name,
            params,
            stats,
            classes=(),
            preprocessing=start.preprocessing,
        )

    task = Task(
        data={"image": photos.images, "size": photos.sizes},
        fingerprint=fingerprint,
        judged=judged,
        transforms=[pairs],
        loss_fn=make_loss(perceptual if use else None, weight=recipe.perceptual_weight),
        metrics=("loss",),
        evaluate=evaluate,
        keep=keep,
        # The perceptual loss pays with PSNR for what it gains: the last epoch counts.
        judged_by="epoch" if use else "val_psnr",
        repeat=recipe.repeat,
        streams=_streams,
        options={"model": start.name, **_features(perceptual if use else None)},
    )
    trained = make_trainable(start.model, recipe, size=recipe.crop_size)
    return make_training(task, trained, recipe)


def _streams(key: Array, count: int) -> tuple[Array, Sequence[Array]]:
    """The crops' keys beside the step's, as all published figures were drawn."""
    step, _ = train.streams(key, count)
    return step, [jax.random.fold_in(step, 1)] * count


def make_validate(
    apply: Apply, pairs: Transform
) -> Callable[[Tree, Tree, Array], tuple[Array, Array]]:
    """`validate(params, stats, images) -> (psnr, ssim)`, means over uint8 images.

    Both are of the luma, `SCALE` pixels from the border on, rounded to 8 bits.
    """

    def one(params, stats, image):
        batch = pairs(None, {"image": image[None]})
        out, truth = apply(params, stats, batch["image"])[0], batch["target"]
        out = jnp.clip(out, 0, 1)
        options = {"border": SCALE, "luma": True, "quantize": True}
        psnr = image_metrics.psnr(out, truth, **options)[0]
        return jnp.minimum(psnr, MOST_DB), image_metrics.ssim(out, truth, **options)[0]

    @jax.jit
    def validate(params, stats, images):
        psnr, ssim = jax.lax.map(partial(one, params, stats), images)
        return psnr.mean(), ssim.mean()

    return validate


def build(name: str, path: Path | None, *, seed: int, is_begun: bool = False) -> Start:
    """The network to start from.

    Args:
      name: a row of the models.
      path: another run or a file, whose weights it takes; none: random ones.
      seed: of these.
      is_begun: a checkpoint has the weights; the file may be gone by now.

    Raises:
      UsageError: the file of `--init-from` does not hold this network.
    """
    source = "random weights" if path is None else f"weights of {path}"
    if path is None or is_begun:
        model = models.create(name, rngs=nnx.Rngs(seed))
        return Start(name, model, Preprocessing(), source)
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        arrays = weights.load_state_dict(file)
        # A network with a residual has the tensors of the one without.
        theirs = _architecture(file)
        if theirs not in (name, None):
            raise UsageError(
                f"--init-from: {path} holds a {theirs}: give --model {theirs}"
            )
        model = convert(models.abstract(name), arrays)
        return Start(name, model, Preprocessing(), source)
    except (ValueError, ConversionError) as error:
        raise UsageError(f"--init-from: {error}") from error


def _architecture(file: Path) -> str | None:
    """The network of a `model.safetensors`; none, where the file does not say."""
    if file.suffix.lower() != ".safetensors":
        return None
    return weights.read_safetensors(file)[1].get("architecture")


def centre_squares(photos: Sequence[Whole], *, count: int | None = None) -> np.ndarray:
    """The centres of the photographs, as large as the smallest of all allows.

    uint8 `(n, side, side, 3)`, of the first `count` photographs or of all.
    """
    side = min(VAL_SIDE, *(min(photo.image.shape[:2]) for photo in photos))
    return np.stack([centre(photo.image, side) for photo in photos[:count]])


def _features(perceptual: Perceptual | None) -> dict[str, list[str]]:
    """The layers by which a perceptual loss compares, where there is one."""
    if perceptual is None:
        return {}
    return {"perceptual_layers": [name for name, _ in perceptual.layers]}


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
