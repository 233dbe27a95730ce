"""Lists of photographs, CSV and JSON lines: what they say, and what is wrong."""

import json

import numpy as np
import pytest

from jaxvision.data import open_dataset
from jaxvision.data.photo import labels_of
from jaxvision.data.sources import find_source
from jaxvision.data.split import fold_aside, set_aside
from tests.photos import SIZES, check_error, make_folder, save

FOUR = "a/0.png", "a/1.png", "b/0.png", "b/1.png"


@pytest.fixture
def photos(tmp_path):
    make_folder(tmp_path, {"a": 2, "b": 2})
    return tmp_path


def write(folder, text, name="list.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def said(source):
    """key -> its labels, by name."""
    return {
        photo.key: tuple(source.classes[label] for label in labels_of(photo))
        for photo in (*source.train, *source.val)
    }


PLAIN = dict(zip(FOUR, [("cat",), ("cat",), ("dog",), ("dog",)], strict=True))


def table(separator=",", end="\n", header=("path", "label"), rows=PLAIN):
    lines = [header, *((path, ";".join(names)) for path, names in rows.items())]
    return end.join(separator.join(line) for line in lines)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", table()),
        ("list.CSV", table(end="\r\n") + "\r\n"),
        ("list.csv", table(end="\r")),
        ("list.csv", "\ufeff" + table(";", end="\r\n\r\n")),
        ("list.tsv", table("\t", header=("File Name", "Class"))),
        ("list.csv", table(" , ", header=("IMAGE", "Target"))),
        ("list.csv", table(header=("path", "label,width")).replace(".png,", ".png,", 1)
         .replace("cat", "cat,3").replace("dog", '"dog",""')),
        ("list.csv", ",path,label\n" + "\n".join(
            f'{i},"{p}",{n[0]}' for i, (p, n) in enumerate(PLAIN.items()))),
        ("list.jsonl", "\n".join(
            json.dumps({"file_name": p, "label": n[0]}) for p, n in PLAIN.items())),
        ("list.jsonl", "\ufeff" + "\r\n\r\n".join(
            json.dumps({"labels": list(n), "path": p}) for p, n in PLAIN.items())),
        ("list.csv", "path,cat,dog\n" + "\n".join(
            f"{p},{int(n == ('cat',))},{n == ('dog',)}" for p, n in PLAIN.items())),
    ],
)  # fmt: skip
def test_one_label_a_photo_in_every_dialect(photos, name, text):
    source = find_source(write(photos, text, name), labelled=True)
    assert said(source) == PLAIN and source.classes == ("cat", "dog")
    assert not source.is_multilabel
    assert [photo.label() for photo in source.train] == [0, 0, 1, 1]
    data = open_dataset(str(photos / name), **SIZES)
    assert data.name == "list" and not data.skipped and not data.warnings
    assert data.train.labels.dtype == np.int32 and data.train.labels.ndim == 1


SEVERAL = dict(zip(FOUR, [("cat", "dog"), (), ("cat",), ("dog",)], strict=True))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", table(rows=SEVERAL)),
        ("list.csv", table(rows=SEVERAL).replace("cat;dog", " dog |cat|cat| ")),
        ("list.csv", table(";", rows=SEVERAL).replace("cat;dog", '"dog;cat;"')),
        ("list.jsonl", "\n".join(
            json.dumps({"path": p, "tags": list(n)}) for p, n in SEVERAL.items())),
        ("list.csv", "path,dog,cat\n" + "\n".join(
            f"{p},{int('dog' in n)},{float('cat' in n)}" for p, n in SEVERAL.items())),
    ],
)  # fmt: skip
def test_several_labels_a_photo_in_every_form(photos, name, text):
    source = find_source(write(photos, text, name), labelled=True)
    assert said(source) == SEVERAL and source.is_multilabel
    assert "several a photo" in source.taken
    data = open_dataset(str(photos / name), **SIZES)
    assert data.train.is_multilabel and data.train.labels.dtype == np.uint8
    both = {
        path: row.tolist()
        for split in (data.train, data.val)
        for path, row in zip(split.paths, split.labels, strict=True)
    }
    rows = [[1, 1], [0, 0], [1, 0], [0, 1]]
    assert both == {f"{photos}/{p}": r for p, r in zip(FOUR, rows, strict=True)}
    for split in (data.train, data.val):
        assert split.labels.any(axis=0).all()


def test_split_column_divides_and_leaves_the_test_photos_out(photos):
    sides = ["train", "Validation", "Training", "valid"]
    rows = zip(FOUR, ["1", "1", "10", "10"], sides, strict=True)
    text = "path;class;split\n" + "\n".join(map(";".join, rows))
    source = find_source(write(photos, text + "\nb/2.png;2;test"), labelled=True)
    assert [photo.key for photo in source.train] == [FOUR[0], FOUR[2]]
    assert [photo.key for photo in source.val] == [FOUR[1], FOUR[3]]
    assert source.taken.endswith(
        "training photos are those of 'train', validation photos of 'val'; left out: "
        "those of 'test'"
    )
    # Those of the test photos, which nobody sees, are none of the classes.
    assert source.classes == ("1", "10")
    text = text.replace("Validation", "test").replace("valid", "testing")
    source = find_source(write(photos, text), labelled=True)
    assert [photo.key for photo in source.val] == [FOUR[1], FOUR[3]]


def test_list_without_labels_serves_superresolution(photos):
    spec = write(photos, "file\n" + "\n".join(FOUR))
    assert [p.key for p in find_source(spec, labelled=False).whole()] == list(FOUR)
    check_error(spec, "list.csv has no column of labels: call it label or class")


def test_paths_are_from_the_list_and_keys_wherever_it_lies(photos, monkeypatch):
    save(photos / "c.png")
    rows = ["a/0.png,x", "./a//1.png,x", f"{photos}/b/0.png,y", "lists/../c.png,y"]
    text = "path,label\n" + "\n".join(rows)
    monkeypatch.chdir(photos)
    source = find_source(write(photos, text), labelled=True)
    keys = ["a/0.png", "a/1.png", "b/0.png", "c.png"]
    assert [photo.key for photo in source.train] == keys
    assert [p.key for p in find_source("list.csv", labelled=True).train] == keys
    (photos / "lists").mkdir()
    text = "path,label\n" + "\n".join(f"../{path},{path[0]}" for path in FOUR)
    data = open_dataset(write(photos / "lists", text), **SIZES)
    assert not data.skipped and len(data.train) == len(data.val) == 2


def test_missing_photos_are_left_out_and_named(photos):
    text = table() + "\nc.png,cat\na,dog\n" + "x" * 300 + ".png,dog"
    data = open_dataset(write(photos, text), **SIZES)
    assert sorted(line.replace(str(photos), "") for line in data.skipped) == [
        "/a: Is a directory",
        "/c.png: No such file or directory",
        f"/{'x' * 300}.png: File name too long",
    ]
    check_error(
        write(photos, "path,label\nno/1.png,cat\nno/2.png,cat\na/0.png,x\na/1.png,x"),
        "none of the images of class 'cat' in .*list.csv can be read .*no/.*: No such "
        "file or directory.: replace them or remove the lines$",
    )


JSON_FAULTS = {
    '{"path": "a.jpg", "label": "x"}\n{"path": ': "line 2: no JSON .Expecting value",
    '\n["a.jpg", "x"]': r"line 2: \['a.jpg', 'x'\] is no object",
    "[" * 99999: "line 1: no JSON",
    '{"path": "a.jpg", "label": {"x": 1}}': "line 1: 'label' has {'x': 1}, and a label",
    '{"path": "a.jpg", "label": ["x", 1.5]}': "line 1: 'label' has 1.5, and a label",
    '{"path": "a.jpg", "label": true}': "line 1: 'label' has True, and a label",
    '{"path": "a.jpg", "label": "\\ud800"}': "line 1: 'label' has .*, and a label is",
    '{"path": "a.jpg", "label": "x"}\n{"label": "x"}': "2: 'path' is nothing, and no",
    '{"path": 3, "label": "x"}': "line 1: 'path' is 3, and no path",
    '{"path": "a\\u0000.jpg", "label": "x"}': "line 1: 'path' is .*, and no path",
    '{"path": "a.jpg", "label": "x"}\n{"path": "b.jpg"}': "line 2: the label is empty",
    '{"name": "a.jpg", "label": "x"}': "has no column of paths: call it path, file",
}
FAULTS = {
    "": "the first line must name the columns",
    "path,label\n\n": "list.csv has no rows$",
    "a.jpg,cat\nb.jpg,dog": "must name the columns, .* it is 'a.jpg,cat'$",
    "path|label\na.jpg|cat": "with commas, semicolons or tabs between them",
    "path,label\na.jpg,x\nb.jpg,x,y": "line 3: 3 cells, and the first line names 2",
    "path,label\na.jpg,x\nb.jpg": "line 3: 1 cells, .* separated by commas",
    'path,label\na.jpg,"x\nb.jpg,y': "line 3: unexpected end of data",
    'path,label\na.jpg,"x"y': "line 2: ',' expected after '\"'",
    "path,label\n,x\nb.jpg,y": "line 2: 'path' is nothing, and no path",
    "path,label\na.jpg,\nb.jpg,y\nc.jpg,": "line 2 and 1 others: the label is empty",
    "path,label\na.jpg,x\nb.jpg,x": "list.csv has one label, 'x': two are needed",
    "path,label\na.jpg,;\nb.jpg,;": "line 2 and 1 others: the label is empty",
    "path,label\na.jpg,a;b\nb.jpg,a|b": "some cells have ';' and others '|'",
    "path,file,label\na,b,c": "'path', 'file' may each be the column of the paths",
    "path,label,class\na,b,c": "'label', 'class' may each be the column of the labels",
    "path,label,label\na,b,c": "has two columns called 'label'",
    "path,cat,dog\na.jpg,1,0\nb.jpg,0,2": "'dog' is no label .* line 3 it is '2'",
    "path,width,cat,dog\na.jpg,640,1,0": "no column called label, and 'width' is no",
    "path,label\na.jpg,x\nb.jpg,y\n./a.jpg,x": "lines 2 and 4 name the same photo",
    "path,label\na.jpg,x\na.jpg,y\na.jpg,z": "lines 2 and 3 .*; 2 such: remove one",
    "path,label,split\na.jpg,x,train\nb.jpg,y,left": "3: 'split' is 'left', and none",
    "path,label,split\na.jpg,x,val\nb.jpg,y,test": "has no photos of the split 'train'",
    "path,label,split\na.jpg,x,train\nb.jpg,y,val": "'x' is in 'train' but not in",
    "path,label,split\na,x,train\nb,y,train\nc,x,val\nd,y,val\ne,z,val": "'z' is in "
    "'val' but not in 'train': add photos there, or remove these",
    "path,label\na.jpg,x\nb.jpg,y\nc.jpg,y": "class 'x' has one readable image in",
    "path,label\n" + "a\0.jpg,x": "line 2: ('path' is 'a|line contains NUL)",
}  # fmt: skip


@pytest.mark.parametrize("text", FAULTS)
def test_fault_of_a_csv_is_one_line(tmp_path, text):
    check_error(write(tmp_path, text), FAULTS[text])


@pytest.mark.parametrize("text", JSON_FAULTS)
def test_fault_of_json_lines_is_one_line(tmp_path, text):
    check_error(write(tmp_path, text, "list.jsonl"), JSON_FAULTS[text])


def test_fault_of_the_file_is_one_line(tmp_path):
    text = "path,label\nä.jpg,x\nb.jpg,y"
    check_error(write(tmp_path, text, encoding="latin-1"), "line 2: the text is not")
    check_error(write(tmp_path, text, encoding="utf-16"), "line 1: the text is not UTF")
    check_error(str(tmp_path / "none.csv"), "none.csv cannot be read: No such file")


def test_mark_between_labels_is_in_none_of_several(photos):
    lines = (json.dumps({"path": p, "labels": ["a", "c;d"]}) for p in PLAIN)
    check_error(write(photos, "\n".join(lines), "l.jsonl"), "the label 'c;d' holds ';'")


def test_labels_alike_but_for_capitals_are_named(photos):
    text = table().replace("a/1.png,cat", "a/1.png,Cat")
    source = find_source(write(photos, text), labelled=True)
    (line,) = source.warnings
    assert "'Cat' and 'cat' are taken as two labels" in line


def many(folder, count=200, seed=0):
    """A multi-label list of photos that are not there, some labels rare."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.5, 0.3, 0.1, 0.03])
    rows = rng.random((count, 4)) < shares
    rows[:2, 3] = True
    lines = [
        json.dumps(
            {"path": f"{i}.jpg", "labels": [f"l{j}" for j in np.nonzero(row)[0]]}
        )
        for i, row in enumerate(rows)
    ]
    source = find_source(write(folder, "\n".join(lines), "l.jsonl"), labelled=True)
    return source, rows


def counts(photos, classes=4):
    return np.bincount([k for p in photos for k in labels_of(p)], minlength=classes)


@pytest.mark.parametrize("seed", range(5))
def test_a_fifth_of_each_label_is_set_aside(tmp_path, seed):
    source, rows = many(tmp_path, seed=seed)
    train, val = set_aside(source, seed=seed)
    assert len(train) + len(val) == len(rows)
    want = np.maximum(1, np.round(0.2 * rows.sum(0)))
    # The rarest to the photo; of the others, those that came along are too many.
    assert (counts(val) >= want).all() and (counts(train) > 0).all()
    assert (counts(val) <= want + 3).all()
    bare = sum(not labels_of(photo) for photo in val)
    assert bare == round(0.2 * (~rows.any(1)).sum())
    again, _ = set_aside(source, seed=seed)
    assert [p.key for p in again] == [p.key for p in train]


def test_folds_judge_each_photo_once_with_its_labels(tmp_path):
    source, rows = many(tmp_path)
    parts = [fold_aside(source, n, folds=4, seed=0)[1] for n in range(1, 5)]
    keys = [photo.key for part in parts for photo in part]
    assert len(keys) == len(set(keys)) == len(rows)
    rarest = np.array([counts(part)[3] for part in parts])
    assert rarest.max() - rarest.min() <= 1
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("fold", [None, (2, 3)])
def test_list_of_a_folder_is_the_folder(tmp_path, fold):
    make_folder(tmp_path, {"a": 7, "b": 5})
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in
             sorted(tmp_path.glob("*/*"))]  # fmt: skip
    spec = write(tmp_path, "\n".join(["path,label", *lines]))
    one, other = (open_dataset(x, fold=fold, **SIZES) for x in (str(tmp_path), spec))
    assert one.classes == other.classes and not other.warnings
    for mine, theirs in ((one.train, other.train), (one.val, other.val)):
        assert mine.paths == theirs.paths
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        np.testing.assert_array_equal(mine.images, theirs.images)
