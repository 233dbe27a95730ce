"""The training photos that the page shows beside an answer."""

import time
from pathlib import Path

import pytest

from experiments.serve import Config, open_service
from experiments.serving import nearest
from jaxvision.data import file_photos
from jaxvision.data.image_files import file_photo
from jaxvision.data.sources import find_source
from tests.serving import served, write_run


def test_no_photo_but_those_drawn_becomes_an_object(tmp_path, monkeypatch):
    """Of many training photos `MOST` are looked through, by chance, of all classes."""
    run, train, val = write_run(tmp_path)
    made = []
    monkeypatch.setattr(nearest, "MOST", 6)
    monkeypatch.setattr(
        file_photos,
        "file_photo",
        lambda path, **about: made.append(path) or file_photo(path, **about),
    )
    find_source(str(tmp_path / "data"), labelled=True)
    listed = len(made)  # to tell the splits apart, say
    found, why = nearest.training_photos(run)
    assert why == "" and len(found) == len({photo.name for photo, _ in found}) == 6
    assert listed + 6 <= len(made) - listed <= listed + 6 + len(val) < len(train)
    assert {photo.name for photo, _ in found} <= set(map(str, train))
    for photo, label in found:
        assert Path(photo.name).parent.name == label
    assert {label for _, label in found} == {"ants", "bees"}


def test_nearest_are_the_runs_own_training_photos(tmp_path):
    run, train, val = write_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with served(open_service(Config(run=run))) as page:
        note, deadline = "", time.monotonic() + 60
        while note != "among 20 training photos" and time.monotonic() < deadline:
            said = page.post("/predict", train[3], wishes="&pictures=1").json
            note = said["nearest_note"]
        assert note == "among 20 training photos"
        first, *others = said["nearest"]
        assert first["name"] == str(train[3]) and first["label"] == "ants"
        assert first["similarity"] == pytest.approx(1, abs=1e-5)
        assert len(others) == 3
        shares = [one["similarity"] for one in said["nearest"]]
        assert shares == sorted(shares, reverse=True)
        for photo in val:
            said = page.post("/predict", photo, wishes="&pictures=1").json
            names = {one["name"] for one in said["nearest"]}
            assert names <= set(map(str, train)) and len(names) == 4
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert after == before  # nothing that was sent, or computed, is kept


def test_run_whose_photos_moved_answers_without_them(tmp_path):
    run, (photo, *_), _ = write_run(tmp_path)
    elsewhere = (tmp_path / "data").rename(tmp_path / "elsewhere")
    photo = elsewhere / photo.relative_to(tmp_path / "data")
    with served(open_service(Config(run=run))) as page:
        note = "being listed"
        while "being listed" in note:
            said = page.post("/predict", photo, wishes="&pictures=1").json
            note = said["nearest_note"]
    assert note.startswith("The training photos are not at hand: ")
    assert str(tmp_path / "data") in note and said["nearest"] == []
