"""`analyze` finds what is planted in a run, and says it to a person."""

import re
import shutil

import numpy as np
import pytest
import yaml
from flax import nnx
from scipy.stats import mannwhitneyu

from converters.bundle import save_bundle
from experiments import analyze
from experiments.analyze import Config
from experiments.command.options import UsageError
from experiments.pages import analysis_page
from experiments.pages.findings import gather
from experiments.pages.predictions import write_predictions
from experiments.runs.folder import write_rows
from jaxvision import analysis, models
from jaxvision.calibration import (
    cross_fitted,
    cross_judged,
    fit_certainty,
    tempered,
)
from jaxvision.data import Split
from jaxvision.evaluation import Evaluation, softmax
from jaxvision.functional import functionalize
from jaxvision.preprocess import Preprocessing
from tests.analysed_run import run as run
from tests.test_report import Reader, history_of, judged, photos, write


def sections(html):
    """The page's sections: id of the heading -> the section."""
    parts = re.split(r'<section[^>]*aria-labelledby="([\w-]+)"', html)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def page(run):
    """The page of the run with the planted problems, and what was said of it."""
    numbers = analyze.main(Config(run=run.folder))
    assert numbers == pytest.approx({name: run.numbers[name] for name in numbers})
    return (run.folder / "report.html").read_text("utf-8")


# --- the planted problems


def test_analyze_finds_the_leaked_duplicate(page):
    part = sections(page)["duplicates"].replace("<wbr>", "")
    assert "1 validation image is in the training set" in " ".join(part.split())
    assert "train/blue/7.png" in part and "val/blue/leaked.jpg" in part
    assert part.count("<img") == 2


def test_analyze_finds_the_swapped_labels(page):
    part = sections(page)["labels"].replace("<wbr>", "")
    found = {}
    for item in part.split("<li>")[1:]:
        (label,) = re.findall(r"labelled (\w+)", item)
        (suggestion,) = re.findall(r"perhaps (\w+)</b>", item)
        (path,) = re.findall(r"val/\w+/\w+\.\w+(?=</span>)", item)
        found[path] = label, suggestion
    assert found.pop("val/green/swapped.png") == ("green", "red")
    assert found.pop("val/blue/swapped.png") == ("blue", "green")
    assert set(found.values()) == {("scarlet", "red")}


def test_analyze_finds_the_class_that_the_model_ignores(page):
    assert "“scarlet” is never predicted" in " ".join(sections(page)["classes"].split())
    first = " ".join(sections(page)["first"].split())
    assert "“scarlet” is never or hardly ever predicted" in first
    for target in ("classes", "duplicates", "labels"):
        assert f'href="#{target}"' in first


@pytest.mark.floor
def test_analyze_explains_the_mistakes_with_grad_cam(page):
    part = sections(page)["mistakes"]
    assert part.count('alt="What speaks for red"') == 3
    assert part.count("What speaks for scarlet") == 2


# --- the page


def test_page_with_findings_is_one_sound_file(page):
    reader = Reader(page)
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    targets = {link[1:] for link in links if link.startswith("#")}
    ids = re.findall(r'\bid="([^"]+)"', page)  # those inside the pictures too
    assert targets <= set(ids) and len(ids) == len(set(ids))
    assert reader.tags.count("h1") == 1
    assert all(image["alt"] for image in reader.images)
    assert len(page) < 1_500_000


def test_report_is_rebuilt_to_the_same_bytes(run, page):
    (run.folder / "report.html").unlink()
    analyze.main(Config(run=run.folder))
    assert (run.folder / "report.html").read_text("utf-8") == page


def findings_of(labels, table, history=(), **options):
    labels = np.asarray(labels, np.int32)
    images = photos(len(labels) + 4)
    names = tuple(f"val/{i}.png" for i in range(len(labels)))
    table = np.asarray(table, np.float32)
    evaluation = Evaluation(names, labels, table, ("roses", "tulips"))
    train = Split(images[:4], np.zeros(4, np.int32), ("a", "b", "c", "d"))
    return gather(train, images[4:], evaluation, history, **options)


def overfitted(epochs=6):
    rows = history_of(epochs)
    return [row | {"val_loss": 1 + abs(epoch - 2)} for epoch, row in enumerate(rows, 1)]


def test_page_says_where_overfitting_starts(tmp_path):
    table = [[0.9, 0.1], [0.2, 0.8]]
    findings = findings_of([0, 1], table, overfitted())
    assert findings.overfitted == 1
    html = write(
        tmp_path,
        evaluation=judged(np.eye(2, dtype=int), ("roses", "tulips")),
        history=overfitted(),
        findings=findings,
    )
    text = Reader(html).text
    assert "From epoch 2 on the model learned its examples by heart" in text
    assert "fell from 1.000 to 0.333" in text and "rose from 1.000 to 5.000" in text
    assert "no sign of overfitting" not in text
    assert "Every validation image was recognised" in text
    lines = analysis_page.first_look(findings, overfitted(), ("roses", "tulips"))
    assert [line["target"] for line in lines] == ["training"]


def test_page_of_a_sound_run_says_that_nothing_stands_out(tmp_path):
    findings = findings_of([0, 1], [[0.9, 0.1], [0.2, 0.8]], history_of(3))
    html = write(
        tmp_path,
        evaluation=judged(np.eye(2, dtype=int), ("roses", "tulips")),
        findings=findings,
    )
    text = Reader(html).text
    assert "Nothing stands out" in text and "no sign of overfitting" in text
    assert "no image is there twice" in text
    assert "None: the model is nowhere sure" in text


def test_a_boaster_is_called_so_and_a_poor_model_is_not_asked_about_labels():
    labels = [0, 1] * 40
    table = [[0.99, 0.01]] * 80
    findings = findings_of(labels, table)
    lines = analysis_page.first_look(findings, [], ("roses", "tulips"))
    said = {line["target"]: line["text"] for line in lines}
    assert (
        "surer than it is right: 99.0 % sure on average, right in 50.0 %"
        in (said["certainty"])
    )
    assert "“tulips” is never or hardly ever predicted" in said["classes"]
    assert "labels" not in said and findings.suspect_count == 40


def test_hard_images_are_those_of_the_highest_loss_and_pairs_the_surest():
    table = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9]]
    findings = findings_of([0, 1, 1, 1, 1], table)
    assert [one.picture.path for one in findings.hard[:3]] == [
        "val/3.png",
        "val/1.png",
        "val/2.png",
    ]
    assert findings.hard[0].loss == pytest.approx(-np.log(0.2))
    (pair,) = findings.pairs
    assert [one.path for one in pair.mistaken] == ["val/3.png", "val/1.png"]
    assert [one.path for one in pair.typical] == ["val/0.png"]


# --- CIFAR-10's kind of run, and runs that are none


def npz_run(folder, name):
    """A run on a .npz file, by hand: the weights are random."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    y = np.arange(60) % 3
    arrays = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(folder / "x.npz", **arrays)
    run = folder / "run"
    run.mkdir()
    model = models.create(name, num_classes=3, rngs=nnx.Rngs(0))
    _, params, stats = functionalize(model)
    classes = ("0", "1", "2")
    save_bundle(
        run / "model.safetensors",
        name,
        params,
        stats,
        classes=classes,
        preprocessing=Preprocessing(32, 32),
    )
    values = {"data": str(folder / "x.npz"), "seed": 0, "epochs": 3}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    write_rows(run / "metrics.csv", history_of(3))
    table = rng.dirichlet(np.ones(3), 20)
    names = [f"x.npz/test/{index:05d}" for index in range(20)]
    write_predictions(run / "predictions.csv", names, table, classes, labels=y[40:])
    return run


@pytest.mark.parametrize("name", ["cnn_small", "fcn_baseline"])
def test_analyze_reads_npz_runs_and_explains_where_there_are_maps(tmp_path, name):
    run = npz_run(tmp_path, name)
    analyze.main(Config(run=run))
    html = (run / "report.html").read_text("utf-8")
    assert f"<h1>{name.replace('_', '_<wbr>')} on x</h1>" in html
    assert re.search(r"x\.npz/<wbr>test/<wbr>000\d\d", html)
    assert ("What speaks for" in html) == (name == "cnn_small")


def test_folder_that_is_no_run_is_refused_in_one_line(run, tmp_path):
    def refused(folder, message):
        with pytest.raises(UsageError, match=message) as caught:
            analyze.main(Config(run=folder))
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", "there is no config.yaml; it is no classification run")
    for seed in ("a-seed0", "a-seed1"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "predictions.csv").touch()
    (tmp_path / "config.yaml").touch()
    refused(tmp_path, "holds several runs, give one, such as .*a-seed0")

    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(run.photos), "/no/photos"))
    refused(copy, "config.yaml: data '/no/photos': no such folder")
    moved = tmp_path / "moved"
    shutil.copytree(run.photos, moved)
    (moved / "val" / "red" / "0.png").unlink()
    (copy / "config.yaml").write_text(config.replace(str(run.photos), str(moved)))
    rows = (copy / "predictions.csv").read_text()
    (copy / "predictions.csv").write_text(rows.replace(str(run.photos), str(moved)))
    refused(copy, "1 of the 23 images in .* no longer in the data, such as .*red/0.png")
    (copy / "predictions.csv").write_text("path\n")
    refused(copy, "copy is damaged: .*first line must name")
    (copy / "model.safetensors").unlink()
    (copy / "predictions.csv").write_text(rows)
    refused(copy, "there is no model.safetensors")


# --- how far its percentages go, and what was cut away


def words_of(html, name):
    """The text of a section."""
    part = sections(html)[name]
    return Reader(part[part.index(">") + 1 : part.index("</section>")]).text


def test_page_says_what_the_temperature_does_and_when_to_be_unsure(tmp_path):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(200, 2))
    shares = softmax(logits)
    labels = (rng.random(200) < shares[:, 1]).astype(np.int32)
    table = softmax(5 * logits).astype(np.float32)
    certainty = fit_certainty(labels, table)
    assert certainty.temperature > 3
    findings = findings_of(labels, table, certainty=certainty)
    before, after = (
        analysis.calibration(labels, x).error
        for x in (table, cross_fitted(labels, table))
    )
    assert findings.calibration.error == after < before
    shown = tempered(
        Evaluation(("",) * 200, labels, table, ("a", "b")), certainty.temperature
    )
    first = findings.hard[0]
    index = int(first.picture.path.removeprefix("val/").removesuffix(".png"))
    assert first.confidence == shown.confidences[index] < table[index].max()
    html = write(
        tmp_path,
        evaluation=judged(np.eye(2, dtype=int), ("roses", "tulips")),
        findings=findings,
    )
    text = words_of(html, "certainty")
    assert f"by {100 * after:.1f} % (expected calibration error)" in text
    assert f"a temperature of {certainty.temperature:.2f} the bars missed" in text
    assert f"missed by {100 * before:.1f} % ." in text
    for level in (0.9, 0.95):
        answered = cross_judged(labels, table, precision=level)
        share = 100 * answered.answered / 200
        limit = 100 * certainty.threshold(level)
        right = 100 * answered.right / answered.answered
        assert f"{level:g} {limit:.1f} % {share:.1f} % {right:.1f} %" in text
    assert "0.99 " not in text  # no 100 answers are so good


@pytest.mark.parametrize(("spread", "found"), [(0.3, True), (0.0, False)])
def test_page_suggests_the_whole_photo_where_mistakes_were_cut_more(
    tmp_path, spread, found
):
    wrong = np.arange(60) < 15
    cut = np.random.default_rng(1).uniform(0.2, 0.5, 60) + spread * wrong
    table = np.where(wrong[:, None], [0.1, 0.9], [0.9, 0.1])
    findings = findings_of(np.zeros(60, int), table, cut=cut)
    theirs = mannwhitneyu(cut[wrong], cut[~wrong], alternative="greater").pvalue
    assert findings.cut.p_value == pytest.approx(theirs) and (theirs < 0.05) == found
    lines = analysis_page.first_look(findings, [], ("roses", "tulips"))
    assert ("cut" in {line["target"] for line in lines}) == found
    html = write(
        tmp_path,
        evaluation=judged(np.eye(2, dtype=int), ("roses", "tulips")),
        findings=findings,
    )
    text = words_of(html, "cut")
    assert f"On average {100 * cut.mean():.1f} % of the area" in text
    assert f"{100 * cut[wrong].mean():.1f} % where it was wrong" in text
    assert ("train with --fit pad" in text) == found
    assert ("no sign that mistakes come of it" in text) == (not found)


def test_all_right_or_all_alike_is_no_sign_of_anything():
    shares = np.linspace(0.1, 0.5, 8)
    assert analysis.cut_photos(shares, np.ones(8, bool)).p_value == 1
    assert analysis.cut_photos(np.full(8, 0.2), np.arange(8) < 4).p_value == 1
    with pytest.raises(ValueError, match="8 shares but 7 answers"):
        analysis.cut_photos(shares, np.ones(7, bool))
