"""CIFAR-10's program: repeats, comparison, presets and exact resume, on made images."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters.bundle import load_bundle
from experiments import cifar10
from experiments.cifar10 import PRESETS, Config
from experiments.command.console import Console
from experiments.command.options import UsageError, parse
from experiments.runs import grid
from experiments.training import classifier
from experiments.training.classifier import make_classifier
from experiments.training.data import open_data
from experiments.training.recipe import ClassifierRecipe
from jaxvision import losses, models, train
from jaxvision.functional import functionalize, modules
from jaxvision.models import cifar
from jaxvision.optim import Optim
from tests.colours import write_colours
from tests.runs import rows_of


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """96 images to train on, 30 to judge by."""
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    return write_colours(path, train=96, val=30)


@pytest.fixture(scope="module")
def config(npz, tmp_path_factory):
    return Config(
        model=("fcn_baseline", "fcn"),
        data=str(npz),
        epochs=2,
        batch_size=16,
        optim=Optim(lr=0.02),
        augment="none",
        ema=0.9,
        repeats=2,
        output=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def finished(config):
    numbers = cifar10.main(config)
    return config.output / "cifar10" / "1", numbers


def arrays_of(folder):
    _, params, stats = functionalize(load_bundle(folder / "model.safetensors").model)
    return jax.tree.leaves((params, stats))


@pytest.mark.floor
def test_each_model_and_seed_is_a_whole_run(finished, config):
    folder, numbers = finished
    names = {f"{model}-seed{seed}" for model in config.model for seed in (0, 1)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    for name in names:
        for file in ("config.yaml", "metrics.csv", "report.html", "predictions.csv"):
            assert (folder / name / file).is_file(), (name, file)
    first = json.loads((folder / "fcn_baseline-seed0" / "results.json").read_text())
    assert first == numbers
    kept = [rows_of(folder / name / "metrics.csv")[-1] for name in sorted(names)]
    assert numbers["val_accuracy"] > 0.9
    # The last epoch's number, not the best one's.
    assert float(kept[2]["val_accuracy"]) == pytest.approx(numbers["val_accuracy"])


def test_comparison_has_mean_and_interval_over_the_seeds(finished):
    folder, _ = finished
    rows = {row["variant"]: row for row in rows_of(folder / "comparison.csv")}
    assert list(rows) == ["fcn_baseline", "fcn"]
    values = [
        json.loads((folder / f"fcn-seed{seed}" / "results.json").read_text())
        for seed in (0, 1)
    ]
    accuracies = np.array([value["val_accuracy"] for value in values])
    assert float(rows["fcn"]["accuracy"]) == pytest.approx(accuracies.mean(), rel=1e-5)
    half = 12.7062 * accuracies.std(ddof=1) / 2**0.5  # Student's t, one degree
    expected = accuracies.mean() + half
    assert float(rows["fcn"]["high"]) == pytest.approx(expected, rel=1e-4)
    assert int(rows["fcn"]["parameters"]) == 1_707_274 - 7 * 257
    assert (folder / "comparison.png").stat().st_size > 10_000


def test_seeds_of_a_grid_equal_runs_of_their_own(finished, config, tmp_path):
    alone = replace(config, model=("fcn",), seed=1, repeats=1, output=tmp_path)
    cifar10.main(alone)
    pairs = zip(
        arrays_of(finished[0] / "fcn-seed1"),
        arrays_of(tmp_path / "cifar10" / "1"),
        strict=True,
    )
    assert all((a == b).all() for a, b in pairs)


def test_all_seeds_share_one_compilation(config, monkeypatch):
    made = []
    original = cifar10.make_classifier

    def counting(*args, **options):
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(cifar10, "make_classifier", counting)
    cifar10.main(replace(config, model=("fcn",), repeats=3, epochs=1))
    assert len(made) == 1
    assert made[0].training.plan.run_steps._cache_size() == 1


@pytest.mark.slow
def test_interrupted_grid_goes_on_to_the_same_bits(
    finished, config, tmp_path, monkeypatch
):
    """Stopped in the middle of the second run, then resumed."""
    calls = []
    original = classifier.fit

    def stopping(state, plan, folder, *, console, stop):
        calls.append(folder.name)

        def evaluate(state):
            if len(calls) == 2:
                stop.signum = 15
            return plan.evaluate(state)

        changed = replace(plan, evaluate=evaluate)
        return original(state, changed, folder, console=console, stop=stop)

    monkeypatch.setattr(classifier, "fit", stopping)
    with pytest.raises(SystemExit):
        cifar10.main(replace(config, output=tmp_path))
    folder = tmp_path / "cifar10" / "1"
    assert len(rows_of(folder / "fcn_baseline-seed1" / "metrics.csv")) == 1
    assert not (folder / "fcn-seed0").exists()
    argv = ["--resume", str(folder)]
    numbers = cifar10.main(parse(Config, argv, prog="x", presets=PRESETS))
    assert numbers == finished[1]
    assert calls.count("fcn_baseline-seed0") == 1
    for name in ("fcn_baseline-seed1", "fcn-seed1"):
        pairs = zip(
            arrays_of(finished[0] / name), arrays_of(folder / name), strict=True
        )
        assert all((a == b).all() for a, b in pairs)


def test_resume_with_another_option_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    argv = ["--resume", str(folder), "--epochs", "9"]
    with pytest.raises(UsageError, match="goes on with epochs = 2"):
        cifar10.main(parse(Config, argv, prog="x", presets=PRESETS))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_sets_defaults_and_the_command_line_wins(name):
    argv = ["--preset", name, "--optim.clip", "1"]
    found = parse(Config, argv, prog="x", presets=PRESETS)
    row = PRESETS[name]
    assert (found.model, found.epochs) == (tuple(row["model"]), row["epochs"])
    assert found.optim == replace(Config().optim, **row["optim"], clip=1.0)
    other = parse(Config, [*argv, "--epochs", "1"], prog="x", presets=PRESETS)
    assert other == replace(found, epochs=1)


def test_config_file_wins_over_its_preset(tmp_path):
    (tmp_path / "c.yaml").write_text("preset: best_fcn\nepochs: 3\nmodel: fcn_deep\n")
    argv = ["--config", str(tmp_path / "c.yaml")]
    found = parse(Config, argv, prog="x", presets=PRESETS)
    assert (found.epochs, found.model) == (3, ("fcn_deep",))
    assert found.ema == PRESETS["best_fcn"]["ema"]


def test_wrong_names_are_listed(config):
    with pytest.raises(UsageError, match="unknown preset 'best'; use original_fcn"):
        parse(Config, ["--preset", "best"], prog="x", presets=PRESETS)
    with pytest.raises(UsageError, match="unknown model 'resnet18'; use fcn_baseline"):
        cifar10.main(replace(config, model=("resnet18",)))


def test_grid_has_a_cell_for_each_combination():
    config = Config(model=("cnn", "fcn"), seed=5, repeats=2)
    cells = grid.expand(config, axes=("model",))
    assert [cell.name for cell in cells] == [
        "cnn-seed5",
        "cnn-seed6",
        "fcn-seed5",
        "fcn-seed6",
    ]
    assert cells[3].config == replace(config, model=("fcn",), seed=6, repeats=1)


def test_dropout_replaces_the_rate_of_the_table(npz):
    data = open_data(str(npz), cifar10.CIFAR10, train_size=32, console=Console())

    def rates(dropout):
        start = cifar10.build("fcn", data, dropout=dropout, seed=0)
        layers = modules(start.model)
        return [m.rate for _, m in layers if isinstance(m, nnx.Dropout)]

    assert rates(None) == [0.2, 0.2]
    assert rates(0.0) == [0.0, 0.0]


def test_fast_net_starts_whitened_and_stays_so(npz):
    config = Config(model=("cnn_lean",), data=str(npz), batch_size=16, dtype="float32")
    data = open_data(str(npz), cifar10.CIFAR10, train_size=32, console=Console())
    start = cifar10.build("cnn_lean", data, dropout=None, seed=0)
    model = start.model
    assert isinstance(model, cifar.FastCNN)
    images = (data.train.images / 255 - cifar10.CIFAR10.mean) / cifar10.CIFAR10.std
    np.testing.assert_allclose(
        model.whiten.kernel[...], cifar.whitening(images), rtol=1e-3, atol=1e-3
    )
    recipe = ClassifierRecipe.of(config)
    training = make_classifier(data, start, recipe, console=Console()).training
    state = jax.eval_shape(training.start, model)
    momentum = jax.tree_util.tree_leaves_with_path(state.opt_state)
    paths = {jax.tree_util.keystr(path) for path, _ in momentum}
    assert not any("'whiten'" in path and "kernel" in path for path in paths)
    assert any("'whiten'" in path and "bias" in path for path in paths)


def test_average_of_weights_is_what_is_evaluated():
    """Against the recursion in numpy; without an average, the weights themselves."""
    import optax

    model = models.create("fcn_baseline", num_classes=3, rngs=nnx.Rngs(0))
    apply, params, stats = functionalize(model)
    tx = optax.sgd(0.1)
    step = train.make_train_step(apply, losses.classification(), tx, ema=0.8)
    state = train.init_state(params, stats, tx, ema=0.8)
    batch = {
        "image": jax.random.normal(jax.random.key(1), (6, 32, 32, 3)),
        "label": jnp.arange(6) % 3,
    }
    average = np.asarray(params["head"]["kernel"])
    for index in range(12):
        state, _ = step(state, batch, jax.random.key(2))
        decay = min(0.8, (1 + index) / (10 + index))
        average = decay * average + (1 - decay) * state.params["head"]["kernel"]
    kept, _ = train.evaluated(state)
    np.testing.assert_allclose(kept["head"]["kernel"], average, rtol=1e-5, atol=1e-6)
    assert np.abs(average - state.params["head"]["kernel"]).max() > 1e-4
    plain = train.init_state(state.params, stats, tx)
    assert train.evaluated(plain) == (state.params, stats) and plain.average == {}
