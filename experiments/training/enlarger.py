"""What trains a network that enlarges photographs: data, a network and a recipe."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters import weights
from converters.bundle import check_revision, save_bundle
from converters.from_torch import ConversionError, convert
from converters.to_torch import to_state_dict
from experiments.command import limits
from experiments.command.limits import at_least, limited
from experiments.command.options import UsageError, check_alike
from experiments.inference.enlarger import MOST_DB
from experiments.training.perceptual import absolute, make_loss, squared
from experiments.training.recipe import Recipe
from experiments.training.training import (
    Start,
    Task,
    Training,
    make_layout,
    make_trainable,
    make_training,
)
from jaxvision import image_metrics, models, parallel, processes, train
from jaxvision.data.pairs import pair_transform
from jaxvision.data.pieces import Pieces, centre_square
from jaxvision.functional import functionalize
from jaxvision.models.network import Enlarger
from jaxvision.optim import Optim
from jaxvision.perceptual import Perceptual
from jaxvision.preprocess import Preprocessing
from jaxvision.typing import Apply, Array, Transform, Tree

LEAST_WARMUP = 100
"""Steps: before Adam knows the size of the gradients, every weight moves by the whole
learning rate, and a network that begins as bicubic interpolation is soon none."""
JITTER = {"flips": 0.0, "full": 0.2}
"""Largest change of brightness, contrast and saturation, by `--augment`."""
ERRORS = {"l1": absolute, "mse": squared}
"""The error of a pixel, by the first word of `--loss`."""


@dataclass(frozen=True)
class EnlargerRecipe(Recipe):
    """How a network is trained that enlarges photographs."""

    repeat: int = limited(32, at_least(1))
    """Crops of each photo an epoch."""
    batch_size: int = limited(16, at_least(1))
    """Crops a step, over all devices."""
    crop_size: int = limited(64, at_least(16, most=4096))
    """Side of the training crops in pixels, before they are reduced."""
    augment: Literal["flips", "full"] = "flips"
    """flips: turns and mirrorings; full: and brightness, contrast and saturation by up
    to 20 %."""
    degrade: Literal["bicubic", "web", "camera"] = "bicubic"
    """What becomes of the crops beside their reduction: bicubic: nothing, as in the
    papers; web: blur, smaller sizes and JPEG, more than once; camera: noise."""
    loss: Literal["l1", "l1+perceptual", "mse", "mse+perceptual"] = "l1"
    """l1: the absolute error, mse: the squared error, of the luma above all; either
    +perceptual: and the distance of VGG16's features, for sharper pictures."""
    perceptual_weight: float = limited(0.1, limits.positive)
    """Weight of the features' distance beside the error."""
    optim: Optim = field(
        default_factory=lambda: Optim(
            name="adam", lr=2e-3, weight_decay=0.0, warmup_epochs=0.25
        )
    )
    """The optimiser and its schedule; a warm-up lasts 100 steps at least."""
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
    begun_as = recipe
    recipe = _warmed(recipe, steps=crops // recipe.batch_size)
    fingerprint, judged = _fingerprints(photos)
    layout = make_layout(recipe)
    whole = parallel.replicated(layout.mesh)
    error, _, features = recipe.loss.partition("+")
    used = perceptual if features else None
    model = start.model
    assert isinstance(model, Enlarger)
    # In full precision, whatever the training computes in.
    exact, _, _ = functionalize(model)
    pairs = _pairs(recipe, model)
    validate = make_validate(layout.gathered(exact), pairs, border=model.scale)
    squares = [
        parallel.place(stack, whole)
        for stack in stacks([photo.image for photo in photos.val], scale=model.scale)
    ]

    def evaluate(params: Tree, stats: Tree) -> dict[str, float]:
        figures = [validate(params, stats, *stack) for stack in squares]
        psnr, ssim = (np.concatenate(column) for column in zip(*figures, strict=True))
        return {"val_psnr": float(psnr.mean()), "val_ssim": float(ssim.mean())}

    task = Task(
        data={"image": photos.images, "size": photos.sizes},
        fingerprint=fingerprint,
        judged=judged,
        transforms=[pairs],
        loss_fn=make_loss(ERRORS[error], used, weight=recipe.perceptual_weight),
        metrics=("loss",),
        evaluate=evaluate,
        keep=_make_keep(start),
        # The perceptual loss pays with PSNR for what it gains: the last epoch counts.
        judged_by="epoch" if used else "val_psnr",
        repeat=recipe.repeat,
        streams=_streams,
        options={
            "model": start.name,
            **_features(used),
            "revision": 1 if _as_ever(model, begun_as, recipe) else 2,
        },
    )
    size = recipe.crop_size // (1 if model.takes_enlarged else model.scale)
    trained = make_trainable(model, recipe, size=size)
    return make_training(task, trained, recipe)


def _make_keep(start: Start) -> Callable[[Tree, Tree, Path], None]:
    """What writes the best epoch's model."""

    def keep(params: Tree, stats: Tree, folder: Path) -> None:
        params, stats = parallel.on_host((params, stats))
        if not processes.is_first():
            return
        save_bundle(
            folder / "model.safetensors",
            start.name,
            params,
            stats,
            classes=(),
            preprocessing=start.preprocessing,
        )

    return keep


def _warmed(recipe: EnlargerRecipe, *, steps: int) -> EnlargerRecipe:
    """The recipe, whose warm-up, if it has one, takes some steps in short runs too."""
    if recipe.optim.warmup_epochs == 0:
        return recipe
    epochs = max(recipe.optim.warmup_epochs, LEAST_WARMUP / steps)
    return replace(recipe, optim=replace(recipe.optim, warmup_epochs=epochs))


def _as_ever(model: Enlarger, given: EnlargerRecipe, warmed: EnlargerRecipe) -> bool:
    """Whether runs of the first versions trained and were judged in the same way.

    Since then the squared error is the luma's above all, VGG's maxima are means, a
    photo is degraded by its place among all, and a warm-up has a least length.
    """
    return (
        given.loss == "l1"
        and given.degrade == "bicubic"
        and given == warmed
        and model.revision == 1
    )


def _pairs(recipe: EnlargerRecipe, model: Enlarger) -> Transform:
    return pair_transform(
        crop_size=recipe.crop_size,
        jitter=JITTER[recipe.augment],
        scale=model.scale,
        enlarged=model.takes_enlarged,
        degradation=recipe.degrade,
    )


def _streams(key: Array, count: int) -> tuple[Array, Sequence[Array]]:
    """The crops' keys beside the step's, as all published figures were drawn."""
    step, _ = train.streams(key, count)
    return step, [jax.random.fold_in(step, 1)] * count


def make_validate(
    apply: Apply, pairs: Transform, *, border: int
) -> Callable[[Tree, Tree, Array, Array], tuple[Array, Array]]:
    """`validate(params, stats, places, images) -> (psnr, ssim)`, of each image, uint8.

    Both are of the luma, `border` pixels from the edge on, rounded to 8 bits. A place
    is the image's among all that are judged, by which it is degraded.
    """

    def one(params, stats, photo):
        index, image = photo
        batch = pairs(None, {"image": image[None], "index": index})
        out, truth = apply(params, stats, batch["image"])[0], batch["target"]
        out = jnp.clip(out, 0, 1)
        options = {"border": border, "luma": True, "quantize": True}
        psnr = image_metrics.psnr(out, truth, **options)[0]
        return jnp.minimum(psnr, MOST_DB), image_metrics.ssim(out, truth, **options)[0]

    @jax.jit
    def validate(params, stats, places, images):
        return jax.lax.map(partial(one, params, stats), (places, images))

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
        metadata = _metadata(file)
        theirs = metadata.get("architecture", name)
        kind = theirs.partition("_x")[0]
        if kind != name.partition("_x")[0]:
            raise UsageError(
                f"--init-from: {path} holds a {theirs}: give --model {kind}"
            )
        if metadata:
            check_revision(path, metadata, models.abstract(theirs))
        if theirs != name:
            new = models.create(name, rngs=nnx.Rngs(seed))
            arrays = _fitting(arrays, to_state_dict(new, *functionalize(new)[1:]))
        model = convert(models.abstract(name), arrays)
        return Start(name, model, Preprocessing(), source)
    except (ValueError, ConversionError) as error:
        raise UsageError(f"--init-from: {error}") from error


def _fitting(
    arrays: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of a network for another scale, in the places where they fit."""
    fits = {n: a for n, a in arrays.items() if n in new and a.shape == new[n].shape}
    return {**new, **fits}


def _metadata(file: Path) -> Mapping[str, str]:
    """What a `model.safetensors` says of itself; another file says nothing."""
    if file.suffix.lower() != ".safetensors":
        return {}
    found = weights.read_safetensors(file)[1]
    return found if "architecture" in found else {}


def stacks(
    images: Sequence[np.ndarray], *, scale: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The centres of photographs, `(places, squares)` for each of few sides.

    Places among the images, int32 `(n,)`; uint8 `(n, side, side, 3)`.
    """
    squares = [centre_square(image, scale=scale) for image in images]
    sides = np.array([len(square) for square in squares], np.int32)
    places = [np.flatnonzero(sides == side) for side in np.unique(sides)]
    return [
        (group.astype(np.int32), np.stack([squares[place] for place in group]))
        for group in places
    ]


def _features(perceptual: Perceptual | None) -> dict[str, list[str]]:
    """The layers by which a perceptual loss compares, where there is one."""
    if perceptual is None:
        return {}
    return {"perceptual_layers": [name for name, _ in perceptual.layers]}


def _fingerprints(photos: Pieces) -> tuple[str, str]:
    """Digests of what is trained on and judged by, the same in all processes."""
    ours = _fingerprint(photos.sizes, photos.images)
    judged = _fingerprint(*(photo.image for photo in photos.val))
    check_alike(lambda: {"training photos": ours, "photos to judge by": judged})
    return ours, judged


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
