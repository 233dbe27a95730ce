"""Trains a network that doubles the size of photographs, and uses it.

python -m experiments.superres --data PHOTOS
python -m experiments.superres upscale RUN IMAGE... --output DIR
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from flax import nnx

from converters import weights
from converters.from_torch import ConversionError, convert
from converters.perceptual import vgg16_params
from experiments import upscale
from experiments.backbones import FILES, choose_weights
from experiments.classification import check_limits, check_resumed
from experiments.config import RunError, UsageError, read_yaml, run_cli, to_dict
from experiments.loop import fit
from experiments.run import (
    Reporter,
    interrupted,
    new_folder,
    skipped_notes,
    stop_on_signals,
    write_config,
)
from experiments.superres_outputs import write_outputs
from experiments.superres_training import (
    MEASURED,
    centre_squares,
    dry_run,
    make_distance,
    make_plan,
    make_relative,
)
from jaxvision import checkpoint, models, perceptual
from jaxvision.data.pieces import Pieces, Whole, open_benchmark, open_photos
from jaxvision.models.srcnn import VARIANTS
from jaxvision.optim import Optim
from jaxvision.perceptual import Perceptual

MODULE = "experiments.superres"


@dataclass(frozen=True)
class Config:
    """Trains a network that doubles the size of photographs.

    To use it afterwards: python -m experiments.superres upscale RUN IMAGE... --output
    DIR
    """

    model: str = "srcnn_955_residual"
    """srcnn_955 or srcnn_915; with _residual the layers compute what is added to the
    bicubic enlargement."""
    data: str = "demo"
    """demo; tfds:oxford_iiit_pet; a .npz file with x_train, x_test; or a folder of
    photos, whose train and test (or val) are the two splits where it has both."""
    epochs: int | None = None
    """By default 20, with the demo photos 6."""
    repeat: int | None = None
    """Crops of each photo an epoch; by default 32, with the demo photos 128."""
    batch_size: int = 16
    """Crops a step, over all devices."""
    crop_size: int = 48
    """Side of the training crops in pixels; small ones learn as much in less time."""
    augment: Literal["flips", "full"] = "full"
    """flips: turns and mirrorings; full: and brightness, contrast and saturation by up
    to 20 %."""
    loss: Literal["mse", "mse+perceptual"] = "mse"
    """mse+perceptual: and the distance of VGG16's features, for sharper pictures."""
    perceptual_weight: float = 0.1
    """Weight of the features' distance beside the mean squared error."""
    perceptual_layers: tuple[str, ...] = ("relu2_2",)
    """Layers of VGG16 that are compared: the mean squared difference of each, as a
    share of the features' own mean square."""
    vgg: str | None = None
    """VGG16's weights: imagenet, or a .pth or .safetensors file, which may hold the
    first layers alone. Where given, results have the perceptual distance as well."""
    optim: Optim = field(
        default_factory=lambda: Optim(
            name="adam", lr=1e-3, weight_decay=0.0, clip=0.01, warmup_epochs=0.25
        )
    )
    """The optimiser and its schedule."""
    ema: float = 0.999
    """Decay of the average of the weights that is judged and kept; 0 keeps none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the training; what is judged is always float32."""
    init_from: Path | None = None
    """Start from the model of another run: its folder, or a .safetensors or .pth
    file."""
    benchmark: tuple[str, ...] = ()
    """Folders of images, or demo, to judge by at the end, beside the test split."""
    val_photos: int = 200
    """Most photos of the test split that are judged."""
    seed: int = 0
    """Seed of the weights, the split, the order and the crops."""
    output: Path = Path("runs")
    """Where the run folder is made: OUTPUT/superres/N."""
    resume: Path | None = None
    """A run folder to go on with, by its own options, to the same bits; other
    benchmarks may be given, and after training by mse alone another --vgg."""
    config: Path | None = None
    """A YAML file of options; the command line wins over it."""
    dry_run: bool = False
    """Open the data, build the model, take one step, write nothing."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(
            self,
            {
                "epochs": self.epochs is None or self.epochs >= 1,
                "repeat": self.repeat is None or self.repeat >= 1,
                "batch_size": self.batch_size >= 1,
                "crop_size": self.crop_size >= 16 and self.crop_size % 2 == 0,
                "perceptual_weight": self.perceptual_weight > 0,
                "perceptual_layers": len(self.perceptual_layers) > 0,
                "ema": 0 <= self.ema < 1,
                "val_photos": self.val_photos >= 1,
                "seed": 0 <= self.seed < 2**32,
            },
        )


def resolve(config: Config) -> Config:
    """The configuration with every default that depends on others spelled out.

    Raises:
      UsageError: an option has a value that does not exist.
    """
    try:
        name = models.variant(config.model).name
    except ValueError:
        name = config.model
    if name not in VARIANTS:
        raise UsageError(
            f"--model: no network {config.model!r}; there are {', '.join(VARIANTS)}"
        )
    vgg = config.vgg or ("imagenet" if config.loss != "mse" else None)
    epochs, repeat = (6, 128) if config.data == "demo" else (20, 32)
    return replace(
        config,
        model=name,
        epochs=config.epochs or epochs,
        repeat=config.repeat or repeat,
        vgg=vgg,
    )


def main(config: Config) -> dict[str, float]:
    """Trains, writes the run folder and returns the best model's numbers.

    Raises:
      UsageError: the options or the data are wrong.
      RunError: weights could not be had, or the loss is no longer finite.
      SystemExit: a signal stopped the run, which is saved.
    """
    report = Reporter()
    folder = config.resume
    config = resolve(config)
    if folder is not None:
        saved = read_yaml(Config, folder / "config.yaml")
        # What the results are judged by changes nothing of the training.
        judging = ["benchmark"]
        if saved.loss == "mse":
            judging += ["vgg", "perceptual_layers"]
        same = {name: getattr(saved, name) for name in judging}
        check_resumed(replace(config, **same), folder)
    benchmarks = _benchmarks(config)
    features = open_perceptual(config, report)
    photos = _open(config, report)
    if features is not None:
        squares = centre_squares(photos.val, count=MEASURED)
        features = make_relative(features, squares)
    begun = folder is not None and bool(checkpoint.steps(folder / "checkpoints"))
    model, source = build(config, is_begun=begun)
    report.say(
        f"{config.model}: {source}; {photos.name}: {photos.count} training photos, "
        f"{len(photos.val)} to judge by"
    )
    state, plan = make_plan(config, photos, model, features)
    if config.dry_run:
        return dry_run(state, plan, report)
    if folder is None:
        folder = new_folder(config.output, "superres")
        write_config(folder, to_dict(replace(config, config=None)))
        report.say(f"run folder: {folder}")
    with stop_on_signals() as stop:
        history = fit(state, plan, folder, report=report, stop=stop)
    if not plan.is_done(history):
        interrupted(folder, MODULE, stop)
    return write_outputs(
        folder,
        title=f"{config.model} on {photos.name}",
        summary={
            "Weights": source,
            "Training photos": str(photos.count),
            "Epochs": str(plan.epochs),
            "Crops": f"{config.crop_size} px, {plan.steps * plan.batch_size} an epoch",
        },
        history=history,
        enlarger=upscale.make_enlarger(upscale.load_model(folder)),
        groups={"test": photos.val, **benchmarks},
        distance=features and make_distance(features),
        notes=skipped_notes(photos.skipped, "photos"),
        report=report,
    )


def build(config: Config, *, is_begun: bool = False) -> tuple[nnx.Module, str]:
    """The network to start from, and a sentence on where its weights are from.

    Args:
      config: names the network and the file of weights.
      is_begun: a checkpoint has the weights; the file may be gone by now.

    Raises:
      UsageError: the file of `--init-from` does not hold this network.
      RunError: torch is missing to read it.
    """
    path = config.init_from
    source = "random weights" if path is None else f"weights of {path}"
    if path is None or is_begun:
        return models.create(config.model, rngs=nnx.Rngs(config.seed)), source
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        arrays = weights.load_state_dict(file)
        # A network with a residual has the tensors of the one without.
        name = _architecture(file)
        if name not in (config.model, None):
            raise UsageError(f"--init-from: {path} holds a {name}: give --model {name}")
        return convert(models.abstract(config.model), arrays), source
    except ModuleNotFoundError as error:
        raise RunError(str(error)) from error
    except (ValueError, ConversionError) as error:
        raise UsageError(f"--init-from: {error}") from error


def _architecture(file: Path) -> str | None:
    """The network of a `model.safetensors`; none, where the file does not say."""
    if file.suffix != ".safetensors":
        return None
    return weights.read_safetensors(file)[1].get("architecture")


def open_perceptual(config: Config, report: Reporter) -> Perceptual | None:
    """The perceptual loss by the weights of `--vgg`, or None where there are none.

    Raises:
      UsageError: there is no such layer, or the file lacks what a layer needs.
      RunError: the weights could not be fetched, or torch is missing to read them.
    """
    if config.vgg is None:
        return None
    if config.vgg != "imagenet" and Path(config.vgg).suffix not in FILES:
        raise UsageError(
            f"--vgg {config.vgg!r}: give imagenet, or a file ({', '.join(FILES)})"
        )
    layers = config.perceptual_layers
    try:
        for layer in layers:
            perceptual.node(layer)
    except ValueError as error:
        raise UsageError(f"--perceptual-layers: {error}") from error
    try:
        start = choose_weights("vgg16", config.vgg, report=report)
        params = vgg16_params(start.arrays or {}, layers=layers)
    except UsageError as error:
        raise UsageError(str(error).replace("--weights", "--vgg")) from error
    except ConversionError as error:
        raise UsageError(f"--vgg: {error}") from error
    return perceptual.make_perceptual(params, layers=dict.fromkeys(layers, 1.0))


def _open(config: Config, report: Reporter) -> Pieces:
    try:
        with report.counting("reading photos") as progress:
            return open_photos(
                config.data,
                crop_size=config.crop_size,
                val_count=config.val_photos,
                seed=config.seed,
                progress=progress,
            )
    except ValueError as error:
        raise UsageError(f"--data: {error}") from error


def _benchmarks(config: Config) -> dict[str, list[Whole]]:
    found: dict[str, list[Whole]] = {}
    for spec in config.benchmark:
        name = Path(spec).expanduser().resolve().name
        try:
            # Names are keys of the results: the second of a kind has its whole path.
            found[spec if name in ("test", *found) else name] = open_benchmark(spec)
        except ValueError as error:
            raise UsageError(f"--benchmark: {error}") from error
    return found


def main_cli() -> None:
    """Training, or with `upscale` as the first word, enlarging."""
    if sys.argv[1:2] == ["upscale"]:
        del sys.argv[1]
        run_cli(upscale.Config, upscale.main, prog=f"python -m {MODULE} upscale")
    else:
        run_cli(Config, main, prog=f"python -m {MODULE}")


if __name__ == "__main__":
    main_cli()
