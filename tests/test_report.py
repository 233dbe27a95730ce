"""Pictures, the table of predictions and the page, read back and taken apart."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.pages import canvas, page, plots
from experiments.pages.findings import gather
from experiments.pages.mistakes import worst_mistakes
from jaxvision import metrics
from jaxvision.data import Split
from jaxvision.evaluation import Evaluation

EVIL = "<script>alert('x')</script>&\"$\\frac$"
CLASSES = ("roses", EVIL, "tulips")
MATRIX = np.array([[8, 2, 0], [0, 5, 0], [3, 0, 7]])


def history_of(epochs):
    return [
        {
            "epoch": epoch,
            "train_loss": 2.0 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": 2.2 / epoch,
            "val_accuracy": 0.9 - 0.01 * (epoch - 2) ** 2,
            "learning_rate": 0.01,
            "images_per_second": 14.0,
            "seconds": 60.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def photos(number, size=24):
    """Images of one colour each, so that they are told apart in a picture."""
    shades = np.linspace(40, 250, number).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (number, size, size, 3)).copy()


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


class Reader(HTMLParser):
    """Tags, text and image sources of a page; complains of tags that do not close."""

    VOID = frozenset({"meta", "link", "img", "br", "wbr", "path", "circle", "use"})

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words, self.images = [], [], [], []
        self.ids = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def judged(matrix=MATRIX, classes=CLASSES, paths=None):
    """An evaluation with this confusion matrix, every answer a sure one."""
    rows, columns = np.nonzero(matrix)
    counts = matrix[rows, columns]
    labels, predictions = np.repeat(rows, counts), np.repeat(columns, counts)
    names = tuple(f"val/{i}.jpg" for i in range(len(labels)))
    table = np.eye(len(classes), dtype=np.float32)[predictions]
    return Evaluation(paths or names, labels.astype(np.int32), table, tuple(classes))


def found(evaluation, history=()):
    """What the analysis finds of an evaluation of `photos`."""
    images = photos(len(evaluation) + 4)
    train = Split(images[:4], np.zeros(4, np.int32), ("a", "b", "c", "d"))
    return gather(train, images[4:], evaluation, history)


def write(folder, **changes):
    about = {
        "title": "resnet18 on flowers",
        "summary": {"Backbone": "resnet18"},
        "config": {"epochs": 3, "optim": {"lr": 0.01}, "versions": {"jax": "0.10.2"}},
        "history": history_of(3),
        "notes": ["Random weights: no ImageNet weights were reachable"],
    }
    told = {name: changes.pop(name, value) for name, value in about.items()}
    arguments = {"evaluation": judged(), **changes}
    return page.write_report(folder, page.About(**told), **arguments).read_text("utf-8")


# --- pictures


def test_curves_are_drawn_for_any_length_and_metric(tmp_path):
    sr = [{"epoch": e, "train_loss": 0.1, "val_psnr": 30 + e} for e in range(1, 4)]
    for name, history in {"a": history_of(1), "b": history_of(9), "c": sr}.items():
        plots.curves(history, tmp_path / f"{name}.png")
        width, height = size_of(tmp_path / f"{name}.png")
        assert width > height > 200
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match="no epoch"):
        plots.curves([], tmp_path / "none.png")


def test_curves_survive_a_loss_that_is_no_number(tmp_path):
    broken = [{"epoch": 1, "train_loss": float("nan"), "val_loss": float("inf")}]
    plots.curves(broken, tmp_path / "curves.png")
    plots.curves(history_of(2) + broken, tmp_path / "curves.png")


def test_curve_panels_draw_the_values(monkeypatch):
    panels = plots.curve_panels(history_of(4))
    assert list(panels) == ["loss", "accuracy", "learning_rate"]
    for svg in panels.values():
        assert svg.startswith("<svg") and "var(--ink)" in svg and "#1b2430" not in svg
    # The same history gives the same page, byte by byte.
    assert panels == plots.curve_panels(history_of(4))
    drawn = []
    monkeypatch.setattr(plots, "svg", lambda figure, salt: drawn.append(figure) or "")
    plots.curve_panels(history_of(4))
    train, val, best_line, ring = drawn[1].axes[0].lines
    np.testing.assert_allclose(train.get_ydata(), [0.5, 0.75, 1 - 0.5 / 3, 0.875])
    np.testing.assert_allclose(val.get_ydata(), [0.89, 0.9, 0.89, 0.86])
    assert best_line.get_xdata()[0] == ring.get_xdata()[0] == 2
    assert ring.get_label() == "best: 90.0 %"


@pytest.mark.parametrize("number", [2, 9, 40, 45])
def test_confusion_shows_counts_up_to_forty_classes(tmp_path, monkeypatch, number):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    matrix = np.eye(number, dtype=int) * 7
    matrix[0, 1] = 3
    names = [EVIL, "名前", *(f"class_{i}" * 5 for i in range(number - 2))]
    plots.confusion(matrix, names, tmp_path / "confusion.png")
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    assert texts == (["7", "3", *["7"] * (number - 1)] if number <= 40 else [])
    row = figures[0].axes[0].get_yticklabels()[0].get_text()
    assert row.endswith("(10)")


def test_confusion_is_coloured_by_the_share_of_the_true_class(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: figures.append(figure))
    plots.confusion(np.array([[30, 10], [0, 4]]), ("a", "b"), tmp_path / "x.png")
    colours = np.asarray(figures[0].axes[0].images[0].get_array())
    np.testing.assert_allclose(colours[0, 0], canvas.RIGHT(0.75)[:3])
    np.testing.assert_allclose(colours[0, 1], canvas.WRONG(0.25)[:3])
    np.testing.assert_allclose(colours[1, 1], canvas.RIGHT(1.0)[:3])
    np.testing.assert_allclose(colours[1, 0], 1.0)


def test_confusion_is_written_with_names_no_font_has(tmp_path, recwarn):
    plots.confusion(MATRIX, ("名前", EVIL, "\udcff"), tmp_path / "confusion.png")
    assert size_of(tmp_path / "confusion.png")[0] > 300
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
    with pytest.raises(ValueError, match="2 class names"):
        plots.confusion(MATRIX, ("a", "b"), tmp_path / "confusion.png")


def test_worst_mistakes_are_the_surest_first():
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    table = [
        [0.99, 0.01, 0.0],
        [0.3, 0.3, 0.4],
        [0.9, 0.1, 0.0],
        [0.3, 0.4, 0.3],
        [0.2, 0.5, 0.3],
    ]
    images, paths = photos(5), tuple(f"val/{i}.jpg" for i in range(5))
    evaluation = Evaluation(paths, labels, np.array(table, np.float32), CLASSES)
    worst = worst_mistakes(images, evaluation)
    assert [m.path for m in worst] == ["val/2.jpg", "val/1.jpg", "val/3.jpg"]
    assert worst[0][1:4] == ("tulips", "roses", pytest.approx(0.9))
    np.testing.assert_array_equal(worst[1].image, images[1])
    of_jax = worst_mistakes(jnp.asarray(images), evaluation, top=2)
    assert [m.label for m in of_jax] == ["tulips", EVIL]
    with pytest.raises(ValueError, match="4 images but 5 answers"):
        worst_mistakes(images[:4], evaluation)


@pytest.mark.parametrize(("wrong", "tiles"), [(0, 0), (1, 1), (30, 24)])
def test_mistakes_picture_holds_up_to_24_photos(tmp_path, monkeypatch, wrong, tiles):
    figures = []

    def save(figure, path, *, dpi):
        figures.append(figure)
        canvas.save(figure, path, dpi=20)

    monkeypatch.setattr(plots, "save", save)
    sure = np.linspace(0.4, 0.9, 31, dtype=np.float32)
    table = np.stack([1 - sure, 1 - sure, 0 * sure], axis=1)
    table[np.arange(31), np.where(np.arange(31) < wrong, 1, 0)] = sure + 0.6
    paths = tuple(map(str, range(31)))
    evaluation = Evaluation(paths, np.zeros(31, np.int32), table, CLASSES)
    target = tmp_path / "mistakes.png"
    plots.mistakes(photos(31), evaluation, target)
    assert size_of(target)[0] > 50
    axes = figures[0].axes
    assert len(axes) == tiles
    if not wrong:
        assert figures[0].texts[0].get_text() == "No mistakes"
    else:
        surest = axes[0].images[0].get_array()
        np.testing.assert_array_equal(surest, photos(31)[wrong - 1])


# --- report.html


def test_page_says_what_the_numbers_are(tmp_path):
    text = Reader(write(tmp_path)).text
    assert "80.0 % of 25 validation images classified correctly" in text
    low, high = metrics.wilson_interval(20, 25)
    assert f"between {100 * low:.1f} % and {100 * high:.1f} %" in text
    assert "would be right for 40.0 %" in text
    assert "Random weights: no ImageNet weights were reachable" in text
    assert "tulips taken for roses : 3 of 10" in text
    assert "Epoch 2 was the best on the validation images (accuracy 90.0 %)" in text
    assert "python -m converters export" in text
    assert "optim lr 0.01" in text and "versions jax 0.10.2" in text
    rates = metrics.per_class(MATRIX)
    order = [text.index(f"{100 * x:.1f} %", text.index("Class by")) for x in rates.f1]
    assert order[1] < order[2] and order[0] != order[1]


def test_page_escapes_what_users_name(tmp_path):
    evaluation = judged(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]]), paths=(EVIL,))
    html = write(
        tmp_path / "a 'b",
        title=EVIL,
        summary={EVIL: EVIL},
        config={EVIL: EVIL, "inner": {EVIL: [EVIL]}},
        notes=[EVIL],
        evaluation=evaluation,
        findings=found(evaluation),
        commands={EVIL: EVIL},
    )
    reader = Reader(html)
    assert "script" not in reader.tags
    assert "<script" not in html
    assert reader.text.count("alert('x')") >= 12
    assert reader.images[0]["alt"] == f"{EVIL}, taken for roses"


def test_page_is_one_file_that_asks_for_nothing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "extra.png")
    images = photos(6)[4:]
    evaluation = judged(np.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]]))
    html = write(
        tmp_path,
        evaluation=evaluation,
        findings=found(evaluation),
        pictures={"An extra": "extra.png"},
    )
    reader = Reader(html)
    assert [image["alt"] for image in reader.images][-1] == "An extra"
    assert len(reader.images) == 5  # each mistake twice: by its pair, by its loss
    for image in reader.images:
        kind, data = image["src"].split(";base64,")
        assert kind.startswith("data:image/")
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    decoded = Image.open(
        io.BytesIO(base64.b64decode(reader.images[0]["src"].split(",")[1]))
    )
    np.testing.assert_allclose(np.asarray(decoded), images[0], atol=2)
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "default-src 'none'" in html
    assert len(reader.ids) == len(set(reader.ids))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["extra.png", "report.html"]


def test_page_has_one_heading_a_section_and_names_its_pictures(tmp_path):
    html = write(tmp_path)
    tags = Reader(html).tags
    assert tags.count("h1") == 1
    assert tags.count("section") == len(re.findall(r"<section[^>]*aria-label", html))
    assert 'aria-label="Accuracy by epoch: training from 50.0 % to 83.3 %' in html
    assert '<html lang="en">' in html and "width=device-width" in html


def test_page_of_a_perfect_model_and_of_missing_classes(tmp_path):
    matrix = np.diag([3, 0, 4])
    text = Reader(write(tmp_path, evaluation=judged(matrix), notes=[])).text
    assert "100.0 % of 7 validation images" in text
    assert "Nothing: every image was recognised" in text
    assert "Read this first" not in text
    # The class without images has no score and is not the weakest.
    assert "weakest tulips (F1 100.0 %)" in text
    assert re.search(r"\$ – – – 0", text)


def test_page_leaves_out_a_matrix_that_is_too_large(tmp_path):
    classes = [f"class {i}" for i in range(page.LARGEST_MATRIX + 1)]
    matrix = np.eye(len(classes), dtype=int)
    html = write(tmp_path, evaluation=judged(matrix, classes))
    assert 'class="matrix"' not in html
    assert 'class="matrix"' in write(tmp_path)


def test_page_without_classes_describes_any_experiment(tmp_path):
    history = [{"epoch": e, "train_loss": 1 / e, "val_psnr": 30.0 + e} for e in (1, 2)]
    text = Reader(
        page.write_report(tmp_path, page.About("x2", {}, {}, history)).read_text(
            "utf-8"
        )
    ).text
    assert "32.00 dB best validation psnr, in epoch 2" in text
    assert "Class by class" not in text and "mistakes" not in text
    page.write_report(tmp_path, page.About("x2", {}, {}))


def test_page_survives_a_file_name_that_is_no_text(tmp_path):
    evaluation = judged(np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), paths=("\udcff",))
    html = write(tmp_path, evaluation=evaluation, findings=found(evaluation))
    assert "taken for" in html


def test_page_rejects_what_it_cannot_show(tmp_path):
    (tmp_path / "x.tiff").touch()
    with pytest.raises(ValueError, match=r"x\.tiff.*\.png"):
        write(tmp_path, pictures={"x": "x.tiff"})
    assert not (tmp_path / "report.html").exists()


def contrast(a, b):
    def luminance(colour):
        c = np.asarray(colour) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_page_colours_have_the_contrast_that_wcag_asks(scheme):
    css = Path(page.__file__).with_name("page.css").read_text("utf-8")

    def colours(text):
        found = {}
        for name, value in re.findall(r"--([\w-]+):\s*([^;]+);", text):
            digits = value.lstrip("#")
            digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
            found[name] = (
                [int(digits[i : i + 2], 16) for i in (0, 2, 4)]
                if value.startswith("#")
                else [int(x) for x in value.split()]
            )
        return found

    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    colour = colours(blocks[0]) | (colours(blocks[1]) if scheme else {})
    for text in ("ink", "quiet", "bad", "val"):
        for ground in ("card", "paper"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["loud-ink"], colour["loud"]) >= 7
    assert contrast(colour["train"], colour["card"]) >= 3
    levels = r"level(\d+) \{ background: rgb\(var\(--hue\)(?: / ([.\d]+))?\)"
    alphas = {int(n): float(alpha or 1) for n, alpha in re.findall(levels, css)}
    assert sorted(alphas) == list(range(1, page.LEVELS + 1))
    for hue in ("right", "wrong"):
        for level, alpha in alphas.items():
            ground = alpha * np.array(colour[hue]) + (1 - alpha) * np.array(
                colour["card"]
            )
            text = colour["on-light" if level <= 6 else "on-dark"]
            assert contrast(text, ground) >= 4.5, (hue, level)
