"""Folders of training and test photos are found by any usual name, or asked for."""

import pytest

from jaxvision.data import open_dataset
from jaxvision.data.pieces import open_benchmark, open_photos
from jaxvision.data.sources import find_source
from jaxvision.data.split_names import find_layout, parse
from tests.photos import SIZES, check_error, make_folder

PAIRS = [
    ("Train", "Test"),
    ("TRAIN", "VAL"),
    ("training", "validation"),
    ("Training", "Testing"),
    ("seg_train", "seg_test"),
    ("train_images", "test_images"),
    ("training_set", "test_set"),
    ("TrainingSet", "TestSet"),
    ("train2017", "val2017"),
    ("DIV2K_train_HR", "DIV2K_valid_HR"),
    ("trainset", "testset"),
    ("Train Data", "Test Data"),
    ("train", "dev"),
]


@pytest.mark.parametrize(("train", "val"), PAIRS)
def test_splits_are_found_by_any_usual_name(tmp_path, train, val):
    root = make_folder(tmp_path, {f"{s}/{c}": 2 for s in (train, val) for c in "ab"})
    data = open_dataset(root, **SIZES)
    assert data.classes == ("a", "b")
    assert all(path.startswith(f"{root}/{train}/") for path in data.train.paths)
    assert all(path.startswith(f"{root}/{val}/") for path in data.val.paths)
    words = f"{root}: training photos from {train}/, validation photos from {val}/"
    assert data.taken == words
    pieces = open_photos(root, crop_size=24)
    assert (pieces.count, len(pieces.val), pieces.taken) == (4, 4, words)
    assert all(f"/{val}/" in photo.name for photo in pieces.val)
    assert len(open_benchmark(root)) == 8


@pytest.mark.parametrize(
    "names",
    [
        ("steam_train", "crash_test"),
        ("bullet train", "pregnancy test"),
        ("valid", "invalid"),
        ("training_shoes", "test_tube"),
        ("trainer", "tester"),
        ("trainval", "testify"),
    ],
)
def test_classes_with_such_words_are_classes(tmp_path, names):
    root = make_folder(tmp_path, {f"{name}/deep": 5 for name in names})
    if "valid" in names:
        root = make_folder(tmp_path / "flat", dict.fromkeys(names, 5))
    data = open_dataset(root, **SIZES)
    assert data.classes == tuple(sorted(names))
    # A word alone is one in any case, and is spoken of.
    assert [line.split()[0] for line in data.warnings] == [
        f"{name}/" for name in names if name == "valid"
    ]


def test_test_photos_are_left_out_with_a_word_where_there_are_validation_photos(
    tmp_path,
):
    splits = ("Train", "valid", "TEST", "backup")
    root = make_folder(tmp_path, {f"{s}/{c}": 2 for s in splits for c in "ab"})
    for data in (open_dataset(root, **SIZES), open_photos(root, crop_size=24)):
        assert data.taken == (
            f"{root}: training photos from Train/, validation photos from valid/; "
            "left out: TEST/, backup/"
        )


def test_usual_names_need_no_word(tmp_path):
    root = make_folder(
        tmp_path, {f"{s}/{c}": 2 for s in ("train", "val") for c in "ab"}
    )
    data = open_dataset(root, **SIZES)
    assert (data.taken, data.warnings) == ("", ())


def test_a_word_alone_goes_before_one_with_others(tmp_path):
    assert find_layout(["train", "train_old", "val", "val_2"], where="")[0] == "train"
    assert parse("train_val") == (None, ())
    root = make_folder(
        tmp_path, {f"{s}/{c}": 1 for s in ("train", "train_old", "val") for c in "ab"}
    )
    assert len(open_dataset(root, **SIZES).train) == 2


AMBIGUOUS = {
    "two trainings": (("Train", "training", "val"), "training photos, Train/, train"),
    "two validations": (
        ("train", "val", "valid"),
        "validation photos, val/, valid/: r",
    ),
    "resolutions": (
        ("X_train_HR", "X_valid_HR", "X_train_LR", "X_valid_LR"),
        "training photos, X_train_HR/, X_train_LR/",
    ),
    "test beside classes": (
        ("test", "cats", "dogs"),
        "has test/ but no train/: .*rename the folder if",
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_is_ambiguous_is_asked_for(tmp_path, case):
    names, message = AMBIGUOUS[case]
    root = make_folder(tmp_path, {f"{s}/{c}": 2 for s in names for c in "ab"})
    check_error(root, message)


def test_a_class_of_that_name_is_spoken_of(tmp_path):
    root = make_folder(tmp_path, {"Test": 5, "cats": 5, "dogs": 5})
    data = open_dataset(root, **SIZES)
    assert data.classes == ("Test", "cats", "dogs")
    assert data.warnings == (
        f"Test/ in {root} has images and no folders, and is taken as a class like the "
        "others; if it is none, move it away",
    )


@pytest.mark.parametrize("above", ["images/{}", "archive/set/{}", "{0}/{0}"])
def test_splits_may_lie_deeper(tmp_path, above):
    splits = ("seg_train", "seg_test") if above == "{0}/{0}" else ("train", "test")
    root = make_folder(
        tmp_path / "p", {f"{above.format(s)}/{c}": 2 for s in splits for c in "ab"}
    )
    data = open_dataset(root, **SIZES)
    assert data.classes == ("a", "b") and len(data.val) == 4 and data.taken
    assert open_photos(root, crop_size=24).count == 4


def test_splits_below_the_classes_are_not_mixed(tmp_path):
    root = make_folder(
        tmp_path, {f"{c}/{s}": 2 for s in ("train", "test") for c in ("cats", "dogs")}
    )
    message = r"cats has train/, test/ inside.*put the splits first \(train/cats\)"
    check_error(root, message)
    with pytest.raises(ValueError, match=message):
        open_photos(root, crop_size=24)


def test_super_resolution_never_trains_on_the_test_photos_beside_others(tmp_path):
    root = make_folder(tmp_path, {"holidays": 3, "Test": 2})
    found = open_photos(root, crop_size=24)
    assert found.count == 3 and len(found.val) == 2
    assert found.taken == (
        f"{root}: validation photos from Test/, training photos are all others"
    )
    # Alone they are what there is.
    alone = make_folder(tmp_path / "alone", {"test": 5})
    assert open_photos(alone, crop_size=24).count == 4


def test_folders_that_link_to_themselves_end(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path)
    check_error(str(tmp_path), "one class, 'circle'")
    assert not find_source(str(tmp_path), labelled=False).train
