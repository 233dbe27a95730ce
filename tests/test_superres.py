"""Super-resolution: outputs, exact resume, figures that a known library confirms."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image, ImageFilter
from safetensors.numpy import save_file

from experiments import superres
from experiments.command.options import RunError, UsageError, run_cli
from experiments.inference.enlarger import load_model, make_enlarger
from experiments.runs import judging
from experiments.runs.judging import measure
from experiments.superres import Config
from experiments.training.enlarger import EnlargerRecipe
from experiments.training.perceptual import COLOUR, absolute, squared
from jaxvision import checkpoint, image_metrics, models
from jaxvision.data.pairs import enlarge, reduce
from jaxvision.data.pieces import Whole
from jaxvision.functional import functionalize
from jaxvision.image_metrics import LUMA
from jaxvision.optim import Optim
from jaxvision.preprocess import to_float
from tests import runs
from tests.runs import check_same_run, metrics_of, rows_of, stop_after

resumed = partial(runs.resumed, Config)
FILES = {
    ".lock",
    "checkpoints",
    "comparison.png",
    "config.yaml",
    "curves.png",
    "metrics.csv",
    "model.safetensors",
    "photos.csv",
    "report.html",
    "results.csv",
}


def texture(height, width, seed):
    """Soft noise: bicubic misses some of it, and it is no trivial image."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of small photographs: 6 to train on, 2 to judge by."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 6), ("test", 2)):
        (folder / split).mkdir()
        for index in range(count):
            image = texture(40, 49, 10 * index + count)
            image.save(folder / split / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    return Config(
        model="srcnn_915",
        loss="mse",
        augment="full",
        data=(str(photos),),
        epochs=3,
        repeat=4,
        batch_size=4,
        crop_size=16,
        optim=Optim(name="adam", lr=2e-3, weight_decay=0.0),
        ema=0.9,
        output=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def finished(config):
    """The folder and the numbers of an unbroken run."""
    numbers = superres.main(config)
    return config.output / "superres" / "1", numbers


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """VGG16's first layer with random weights, as a checkpoint."""
    weight = np.random.default_rng(0).normal(0, 0.3, (64, 3, 3, 3))
    tensors = {"features.0.weight": weight, "features.0.bias": np.zeros(64)}
    path = tmp_path_factory.mktemp("vgg") / "vgg.safetensors"
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, path)
    return str(path)


@pytest.mark.floor
def test_run_learns_and_leaves_every_file(finished):
    folder, numbers = finished
    assert {path.name for path in folder.iterdir()} == FILES
    rows = rows_of(folder / "metrics.csv")
    assert list(rows[0]) == [
        "epoch",
        "train_loss",
        "val_psnr",
        "val_ssim",
        "learning_rate",
        "images_per_second",
        "seconds",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[2] < losses[0] / 2  # a network without a residual begins with black
    results = {row["method"]: row for row in rows_of(folder / "results.csv")}
    assert set(results) == {"bicubic", "model"} and results["model"]["set"] == "test"
    assert float(results["model"]["psnr"]) == pytest.approx(
        numbers["test_psnr"], rel=1e-5
    )
    each = [float(row["psnr"]) for row in rows_of(folder / "photos.csv")]
    assert len(each) == 4
    assert np.mean(each[::2]) == pytest.approx(numbers["test_psnr_bicubic"], rel=1e-5)


def test_figures_are_those_of_scikit_image(finished, photos):
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    expected = []
    for path in sorted((photos / "test").glob("*.png")):
        with Image.open(path) as image:
            truth = image.crop((0, 0, 48, 40))
        low = truth.resize((24, 20), Image.Resampling.BICUBIC)
        bicubic = low.resize((48, 40), Image.Resampling.BICUBIC)
        a, b = (
            np.round(rgb2ycbcr(np.asarray(x))[2:-2, 2:-2, 0]) for x in (truth, bicubic)
        )
        similar = structural_similarity(
            a,
            b,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        expected.append((peak_signal_noise_ratio(a, b, data_range=255), similar))
    psnr, ssim = np.mean(expected, axis=0)
    assert finished[1]["test_psnr_bicubic"] == pytest.approx(psnr, abs=1e-3)
    assert finished[1]["test_ssim_bicubic"] == pytest.approx(ssim, abs=1e-5)


def test_grey_files_are_judged_by_their_own_levels():
    truth = np.full((32, 32, 3), 100, np.uint8)
    image = truth + np.uint8(10)
    ((gray, _),) = measure(Whole("x", truth, is_gray=True), [image], border=2)
    ((colour, _),) = measure(Whole("x", truth), [image], border=2)
    assert gray == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    # Of 219 levels of luma these are 101.9 and 110.5, rounded 102 and 110.
    assert colour == pytest.approx(20 * np.log10(255 / 8), abs=1e-3)
    # And not infinite.
    assert measure(Whole("x", truth), [image, truth], border=2)[1][0] == 100.0


def test_photos_of_many_sizes_are_measured_by_one_program():
    before = judging._figures._cache_size()
    for height, width in ((34, 62), (50, 40), (64, 64)):
        truth = np.asarray(texture(height, width, 0))
        image = np.asarray(texture(height, width, 1))
        ((psnr, ssim),) = measure(Whole("x", truth), [image], border=2)
        pair = [to_float(jnp.asarray(pixels[None])) for pixels in (image, truth)]
        options = {"border": 2, "luma": True, "quantize": True}
        for ours, metric in ((psnr, image_metrics.psnr), (ssim, image_metrics.ssim)):
            np.testing.assert_allclose(ours, metric(*pair, **options), rtol=1e-5)
    assert judging._figures._cache_size() == before + 1


@pytest.mark.parametrize(("error", "power"), [(absolute, 1), (squared, 2)])
def test_errors_are_the_lumas_and_a_share_of_the_colours(error, power):
    target = jnp.full((1, 2, 3, 3), 0.5)
    assert float(error(target - 0.25, target)) == pytest.approx(0.25**power)
    red = target.at[..., 0].add(0.3)
    share = 0.3 * LUMA[0] / sum(LUMA)
    colours = ((0.3 - share) ** power + 2 * share**power) / 3
    expected = share**power + COLOUR * colours
    assert float(error(red, target)) == pytest.approx(expected)


def test_interrupted_and_resumed_run_has_the_same_bits(
    finished, config, monkeypatch, capsys, tmp_path
):
    stop_after(monkeypatch, superres, replace(config, output=tmp_path), looks=7)
    folder = tmp_path / "superres" / "1"
    assert f"--resume {folder}" in capsys.readouterr().err
    assert checkpoint.steps(folder / "checkpoints")
    assert not (folder / "report.html").exists()
    assert superres.main(resumed(folder)) == finished[1]
    check_same_run(folder, finished[0])


def test_finished_run_is_judged_by_more(finished, photos, vgg, monkeypatch):
    folder, numbers = finished
    before = (folder / "model.safetensors").stat().st_mtime
    monkeypatch.chdir(photos / "train")
    words = ("--benchmark", ".", "--vgg", vgg, "--perceptual-layers", "relu1_1")
    again = superres.main(resumed(folder, *words))
    assert (folder / "model.safetensors").stat().st_mtime == before
    assert numbers.items() <= again.items() and "train_psnr" in again
    assert 0 < again["test_distance"] < 1
    with pytest.raises(UsageError, match="leave out the other value, 99"):
        superres.main(resumed(folder, "--epochs", "99"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [3, 4])
def test_light_network_learns_any_scale_and_starts_from_another(
    config, photos, tmp_path, scale
):
    run = tmp_path / "superres" / "1"
    first = replace(
        config,
        model="light",
        loss="l1",
        crop_size=4 * scale * 2,
        data=(str(photos), str(photos / "train")),
        output=tmp_path,
    )
    superres.main(first)
    numbers = superres.main(replace(first, scale=scale, init_from=run, epochs=4))
    assert numbers["test_psnr"] > numbers["test_psnr_bicubic"]
    model = load_model(tmp_path / "superres" / "2")
    assert model.scale == scale
    with pytest.raises(UsageError, match="give --model light"):
        superres.main(replace(config, init_from=run))


def test_light_network_stays_near_bicubic_in_a_few_steps(tmp_path):
    numbers = superres.main(Config(epochs=4, repeat=1, output=tmp_path))
    assert numbers["test_psnr"] > numbers["test_psnr_bicubic"] - 0.05


def test_start_from_another_run_keeps_what_it_learned(finished, config, tmp_path):
    folder = finished[0]
    start = replace(config, init_from=folder, output=tmp_path, dry_run=True)
    still = replace(start, optim=replace(config.optim, lr=1e-12))
    best = max(float(row["val_psnr"]) for row in metrics_of(folder))
    assert superres.main(still)["val_psnr"] == pytest.approx(best, abs=1e-3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "halo"),
    [("srcnn_955", 6), ("srcnn_915", 5), ("srcnn_955_x3", 5), ("light_x4", 8)],
)
def test_halo_is_the_reach_of_the_layers_and_the_bicubic(name, halo):
    model: Any = models.create(name, rngs=nnx.Rngs(0))
    assert make_enlarger(model).halo == halo


def test_srcnn_keeps_its_filters_at_the_learning_rate_of_the_recipe():
    """Seen uncentred, brightness moves all filters alike until hardly one is left."""
    pixels = np.stack([np.asarray(texture(32, 32, seed)) for seed in range(4)])
    target = to_float(jnp.asarray(pixels))
    image = enlarge(reduce(target, scale=2), scale=2)
    model = models.create("srcnn_915_residual", rngs=nnx.Rngs(0))
    apply, params, stats = functionalize(model)
    tx = optax.adam(EnlargerRecipe().optim.lr)

    def loss(params):
        return squared(apply(params, stats, image)[0], target)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), None, length=100)[1]

    losses = train(params)
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow  # the loop's own tests have it by default
def test_divergence_stops_the_run_and_names_the_cure(config, tmp_path):
    with pytest.raises(RunError, match="no longer finite.*--optim.lr"):
        wild = Optim(name="sgd", lr=1e30)
        superres.main(replace(config, output=tmp_path, optim=wild, epochs=1))


WRONG = [
    (["--model", "srcnn_99"], "no network 'srcnn_99'"),
    (["--model", "resnet18"], "there are light, srcnn_955"),
    (["--model", "light_x3"], "--model light_x3 is for --scale 3, not 2"),
    (["--crop-size", "16", "--scale", "3"], "--scale 3 does not divide it"),
    (["--data", "/no/such/folder"], "no such folder"),
    (["--benchmark", "/no/such"], "--benchmark: '/no/such' is neither"),
    (["--batch-size", "5000"], "more than the 24 crops"),
    (["--crop-size", "15"], "--crop-size cannot be 15"),
    (["--crop-size", "64"], "none of the 6 photos to train on"),
    (["--epochs", "0"], "--epochs cannot be 0"),
    (["--ema", "1"], "--ema cannot be 1"),
    (["--init-from", "/no/such"], "--init-from"),
    (["--resume", "/no/such/run"], "no config.yaml"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda w: str(w)[:30])
def test_wrong_call_says_what_and_exits_with_2(
    config, monkeypatch, capsys, tmp_path, words, message
):
    base = {"--data": config.data[0], "--output": str(tmp_path), "--repeat": "4"}
    base |= {"--crop-size": "16"}

    def program():
        run_cli(Config, superres.main, prog="superres")

    runs.check_wrong_call(program, base, words, message, monkeypatch, capsys)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_named(config, finished, tmp_path):
    for name in ("srcnn_955", "srcnn_915_residual"):  # the latter has these tensors
        other = replace(config, model=name, init_from=finished[0], output=tmp_path)
        with pytest.raises(UsageError, match="--init-from: .*give --model srcnn_915"):
            superres.main(other)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="--init-from: .*missing .*conv1.weight"):
        superres.main(replace(config, init_from=tmp_path, output=tmp_path))
    with pytest.raises(UsageError, match="not the model.safetensors of a run"):
        load_model(tmp_path)
    assert Path(finished[0], "model.safetensors").is_file()


@pytest.mark.floor
def test_perceptual_loss_trains_and_is_reported(finished, config, vgg, tmp_path):
    start = tmp_path / "start.safetensors"
    shutil.copy(finished[0] / "model.safetensors", start)
    numbers = superres.main(
        replace(
            config,
            loss="mse+perceptual",
            perceptual_weight=0.02,
            perceptual_layers=("relu1_1",),
            vgg=vgg,
            init_from=start,
            epochs=1,
            optim=replace(config.optim, lr=1e-12),
            output=tmp_path,
        )
    )
    (row,) = metrics_of(tmp_path / "superres" / "1")
    # The distance is a share of the features' energy, and the squared error comes on
    # top; both are much the same on the test photos, which have the same statistics.
    error = 10 ** (-numbers["test_psnr"] / 10) / sum(LUMA) ** 2
    expected = error + 0.02 * numbers["test_distance"]
    assert float(row["train_loss"]) == pytest.approx(expected, rel=0.3)
    assert 0.1 < numbers["test_distance"] < 1 and 0.2 < error / expected < 0.8
    assert numbers["test_psnr"] == pytest.approx(finished[1]["test_psnr"], abs=1e-3)
    rows = rows_of(tmp_path / "superres" / "1" / "results.csv")
    assert [row["distance"] for row in rows] == [
        f"{numbers[name]:.6g}" for name in ("test_distance_bicubic", "test_distance")
    ]
    start.unlink()  # the checkpoint has what was learned since
    assert superres.main(resumed(tmp_path / "superres" / "1")) == numbers


def test_wrong_perceptual_options_are_named(config, vgg, tmp_path):
    wrong = {"output": tmp_path, "loss": "mse+perceptual"}
    for options, message in (
        ({"vgg": "v7"}, "--vgg 'v7': give imagenet, or a file"),
        ({"vgg": "none.pth"}, "--vgg: none.pth does not exist"),
        ({"vgg": vgg}, "--vgg: .*missing .*features.2.weight"),
        (
            {"vgg": vgg, "perceptual_layers": ("relu9_9",)},
            "--perceptual-layers: VGG16 has no layer 'relu9_9'",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            superres.main(replace(config, **wrong, **options))
