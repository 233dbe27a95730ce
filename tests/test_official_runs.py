"""The programs on the official archives: fetched, trained on, and refused."""

from unittest import mock

import pytest

from experiments import cifar10, superres, transfer
from experiments.command.console import Console
from experiments.command.options import RunError, UsageError, run_cli
from experiments.training.data import fetch_data
from jaxvision.data import pets
from tests.archives import PETS
from tests.archives import home as home
from tests.archives import served as served
from tests.runs import rows_of
from tests.test_data_official import CIFAR


def names_of(rows, column):
    return {row[column].rsplit("/", 1)[-1].removesuffix(".jpg") for row in rows}


@pytest.mark.slow
def test_cifar10_trains_on_the_archive(served, tmp_path):
    assert cifar10.Config().data == "cifar10"  # which needs no extra
    config = cifar10.Config(
        model=("fcn_baseline",), epochs=1, batch_size=16, output=tmp_path
    )
    cifar10.main(config)
    rows = rows_of(tmp_path / "cifar10" / "1" / "predictions.csv")
    assert [row["path"] for row in rows] == [f"cifar10/test/{i:05d}" for i in range(12)]
    assert [row["label"] for row in rows][:3] == ["airplane", "automobile", "bird"]


@pytest.mark.slow
def test_transfer_trains_on_37_breeds(served, tmp_path):
    config = transfer.Config(
        backbone=("resnet18",),
        data=("oxford_iiit_pet",),
        weights="random",
        epochs=1,
        batch_size=2,
        image_size=32,
        output=tmp_path,
    )
    transfer.main(config)
    rows = rows_of(tmp_path / "transfer" / "1" / "predictions.csv")
    assert names_of(rows, "path") == set(PETS["test"])
    assert list(rows[0])[4:] == list(pets.CLASSES)


@pytest.mark.slow
def test_superres_trains_on_trainval_and_judges_on_test(served, tmp_path):
    config = superres.Config(
        model="srcnn_915",
        data=("oxford_iiit_pet",),
        benchmark=("oxford_iiit_pet",),
        epochs=1,
        repeat=2,
        batch_size=2,
        crop_size=32,
        output=tmp_path,
    )
    superres.main(config)
    rows = rows_of(tmp_path / "superres" / "1" / "photos.csv")
    judged = [row for row in rows if row["set"] == "test"]
    assert names_of(judged, "photo") == set(PETS["test"])
    others = [row for row in rows if row["set"] == "oxford_iiit_pet"]
    assert names_of(others, "photo") == {*PETS["trainval"], *PETS["test"]}


def test_what_could_not_be_had_is_a_failed_run_and_what_is_wrong_a_wrong_call(
    served, home, tmp_path, monkeypatch, capsys
):
    del served.server.bodies[f"cifar10/{CIFAR}"]
    with pytest.raises(RunError, match=f"^--data: {CIFAR} could not be fetched: "):
        fetch_data("cifar10", console=Console())
    for status in (1, 2):
        args = ["cifar10", "--output", str(tmp_path / "runs")]
        with mock.patch("sys.argv", args), pytest.raises(SystemExit) as caught:
            run_cli(cifar10.Config, cifar10.main, prog="cifar10")
        assert caught.value.code == status
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(home / "cifar10") in line
        folder = home / "cifar10" / "cifar-10-batches-bin"
        folder.mkdir(exist_ok=True)
        (folder / "test_batch.bin").touch()
    assert not (tmp_path / "runs").exists()


def test_fetching_shows_how_far_it_is(served):
    console, shown = Console(), []
    with mock.patch.object(Console, "progress") as progress:
        progress.return_value.__enter__.return_value = lambda *what: shown.append(what)
        fetch_data("oxford_iiit_pet", console=console)
    size = pets.IMAGES.size
    assert ("fetching images.tar.gz", size, size, "") in shown
    assert shown[-1] == ("unpacking images.tar.gz", 7, 7, "")


def test_home_that_is_none_is_one_line(monkeypatch):
    for name in ("JAXVISION_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", nobody)
    for spec in ("cifar10", "oxford_iiit_pet"):
        with pytest.raises(UsageError, match="^--data: .*there is no home folder"):
            fetch_data(spec, console=Console())
