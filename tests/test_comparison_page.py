"""The page, the table and the picture that a grid ends with."""

import re

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from scipy.stats import t as student

from experiments.command.console import Console
from experiments.pages import comparison_plots
from experiments.pages.standings import Standing, Variant
from experiments.runs import grid
from experiments.runs.folder import Run
from tests.grids import LABELS, Page, cells_of, compared, fake
from tests.grids import drawn as drawn
from tests.grids import quick as quick


def test_page_names_the_winner_and_the_test(tmp_path):
    """12 images only the large one had right, 3 only the small one."""
    index = np.arange(40)
    mistakes = {"small": index < 14, "large": (index >= 12) & (index < 17)}
    page, lines = compared(
        tmp_path,
        cells_of(freeze=("none",)),
        wrong=lambda config: mistakes[config.net[0]],
    )
    p_value = binomtest(3, 15).pvalue
    text = Page(page).text
    assert (
        "“large” wins with 87.5 %, 22.5 points ahead of “small”, which is more than "
        f"chance (p = {p_value:.3f})." in text
    )
    assert (
        "15 images were recognised by only one of the two, 12 by “large” and 3 by "
        "“small”. Two equally good models would differ by so much in about 4 of 100"
    ) in text
    assert float(lines["small"]["p_against_best"]) == pytest.approx(p_value, rel=1e-5)
    assert lines["large"]["p_against_best"] == ""


def test_lead_that_may_be_chance_is_called_so_and_the_cheaper_is_named(tmp_path):
    page, _ = compared(
        tmp_path,
        cells_of(freeze=("none",)),
        wrong=lambda config: 8 if config.net == ("small",) else 6,
    )
    text = Page(page).text
    assert "5.0 points ahead of “small”, but that may be chance (p = 0.50)." in text
    assert "“small” costs 0.25 GFLOP an image instead of 4" in text


def test_equal_variants_are_level(tmp_path):
    page, _ = compared(tmp_path, cells_of(freeze=("none",)))
    text = Page(page).text
    assert "“small” and “large” are level at 92.5 %." in text
    assert "Both recognised exactly the same images." in text


def test_intervals_over_images_and_over_seeds(tmp_path):
    """Student's by scipy; the bootstrap by drawing the images themselves."""
    rng = np.random.default_rng(3)
    wrong = rng.random((2, 3, 40)) < np.array([0.25, 0.1])[:, None, None]

    def mistakes(config):
        return wrong[int(config.net == ("large",)), config.seed]

    page, lines = compared(
        tmp_path, cells_of(freeze=("none",), repeats=3), wrong=mistakes
    )
    right = 1 - wrong.mean(axis=2)
    for row, accuracies, net in zip(lines.values(), right, wrong, strict=True):
        low, high = student.interval(
            0.95, 2, accuracies.mean(), accuracies.std(ddof=1) / 3**0.5
        )
        assert row["interval_over"] == "seeds"
        assert float(row["low"]) == pytest.approx(low, rel=1e-5)
        assert float(row["high"]) == pytest.approx(high, rel=1e-5)
        draws = rng.integers(0, 40, (20_000, 40))
        means = 1 - net.mean(axis=0)[draws].mean(axis=1)
        expected = np.quantile(means, [0.025, 0.975])
        found = [float(row["images_low"]), float(row["images_high"])]
        np.testing.assert_allclose(found, expected, atol=0.02)
    text = Page(page).text
    discordant = (wrong[0, 0] & ~wrong[1, 0]).sum(), (wrong[1, 0] & ~wrong[0, 0]).sum()
    p_value = binomtest(int(discordant[1]), int(sum(discordant))).pvalue
    assert (
        p_value > 0.001 and f"more than chance (p = {p_value:.3f} with seed 0)" in text
    )
    assert "In the runs with seed 0: " in text
    assert "“large” was the better of the two with each of the 3 seeds." in text
    single, lines = compared(tmp_path / "one", cells_of(freeze=("none",)))
    low, high = (float(lines["small"][name]) for name in ("low", "high"))
    assert low < 37 / 40 < high and lines["small"]["interval_over"] == "images"
    assert (lines["small"]["images_low"], lines["small"]["std"]) == (f"{low:.6g}", "")


def test_nothing_wrong_still_has_an_interval(tmp_path):
    _, lines = compared(tmp_path, cells_of(freeze=("none",)), wrong=lambda config: 0)
    assert float(lines["small"]["low"]) == pytest.approx(1 / (1 + 1.959964**2 / 40))


def test_options_are_columns_and_a_matrix(tmp_path):
    page, lines = compared(
        tmp_path, cells_of(), wrong=lambda config: 3 + len(config.freeze[0])
    )
    row = lines["large-layer1,layer2"]
    assert (row["net"], row["freeze"]) == ("large", "layer1,layer2")
    assert (row["gflop"], row["minutes"], row["seconds_an_epoch"]) == ("4", "1", "30")
    matrix = page[page.index('id="options"') : page.index('id="curves"')]
    assert re.findall(r">([\d.]+ %)<", matrix) == ["82.5 %", "60.0 %"] * 2
    assert Page(matrix).links[0] == "small-none/report.html"
    one_axis, _ = compared(tmp_path / "one", cells_of(freeze=("none",)))
    assert 'id="options"' not in one_axis


def test_links_lead_to_the_runs_and_the_page_stands_alone(tmp_path):
    page, _ = compared(tmp_path, cells_of(net=("a/b", "c d"), repeats=2))
    found = Page(page)
    assert len([link for link in found.links if link.endswith("report.html")]) == 8 + 4
    for link in found.links:
        assert "://" not in link and (tmp_path / link).is_file(), link
    assert "script" not in found.tags and "link" in found.tags
    assert not re.search(r'(src|href)="(?!data:)[^"]*:', page)
    assert "<svg" in page and "default-src 'none'" in page


def test_names_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    page, lines = compared(tmp_path, cells_of(net=(evil, "b$x^2$")))
    assert "<script" not in page.lower() and "&lt;script&gt;" in page
    assert f"{evil}-none" in lines
    assert all(
        len(path.parent.parts) == len(tmp_path.parts) + 1
        for path in tmp_path.glob("*/report.html")
    )


def test_different_validation_images_are_not_tested(tmp_path):
    page, lines = compared(
        tmp_path,
        cells_of(freeze=("none",)),
        wrong=lambda config: 1 if config.net == ("large",) else 4,
        labels=lambda config: LABELS if config.net == ("large",) else LABELS[::-1],
    )
    reason = "cannot be said: large and small were judged by different images."
    assert reason in Page(page).text
    assert lines["small"]["p_against_best"] == ""
    varied = tmp_path / "varied"
    _, lines = compared(
        varied,
        cells_of(net=("small",), freeze=("none",), repeats=2),
        labels=lambda config: np.roll(LABELS, config.seed),
    )
    assert lines["small-none"]["images_low"] == ""


def test_seeds_that_disagree_with_the_mean_are_told(tmp_path):
    """The large one is better on average, and clearly worse with the first seed."""

    def wrong(config):
        large = config.net == ("large",)
        return (12 if large else 2) if config.seed == 0 else (0 if large else 20)

    page, _ = compared(tmp_path, cells_of(freeze=("none",), repeats=2), wrong=wrong)
    reason = (
        "but only with 1 of 2 seeds: more seeds must decide (p = 0.002 with seed 0)"
    )
    assert reason in Page(page).text


def test_one_variant_with_several_seeds_has_no_contest(tmp_path):
    page, lines = compared(
        tmp_path, cells_of(net=("small",), freeze=("none",), repeats=3)
    )
    text = Page(page).text
    assert "“small-none” recognises 92.5 % of the validation images on average" in text
    assert "behind the best" not in text and len(lines) == 1


def test_results_without_gflop_leave_the_column_out(tmp_path):
    run_cell, _ = fake()

    def older(cell, run):
        numbers = run_cell(cell, run)
        del numbers["gflop"]
        return numbers

    grid.run(cells_of(), Run(tmp_path, {}), older, console=Console())
    page = (tmp_path / "comparison.html").read_text()
    assert "GFLOP" not in page and "seconds" in page


def test_notes_stand_at_the_top(tmp_path):
    run_cell, _ = fake()
    note = "The weights are random & say nothing."
    grid.run(cells_of(), Run(tmp_path, {}), run_cell, console=Console(), notes=[note])
    page = (tmp_path / "comparison.html").read_text()
    assert page.index("random &amp; say") < page.index('id="result"')


def test_pictures_have_the_variants_colours(tmp_path, drawn):
    page, _ = compared(
        tmp_path,
        cells_of(),
        wrong=lambda c: 3 + 2 * (c.net[0] == "small") + 5 * (c.freeze[0] == "none"),
    )
    pixels = np.asarray(Image.open(tmp_path / "comparison.png").convert("RGB"))
    left = pixels[:, : pixels.shape[1] // 3].reshape(-1, 3)
    for colour in comparison_plots.COLOURS[:2]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(left.astype(int) - rgb).max(axis=1) < 8).sum() > 100, colour
    curves = page[page.index('id="curves"') :]
    assert curves.count('class="panel"') == 5
    assert curves.count(comparison_plots.COLOURS[1]) > 10
    strokes = re.findall(r'<svg class="stroke".*?</svg>', curves)
    assert len(set(strokes)) == len(strokes) == 4


@pytest.mark.parametrize("freeze", [("none",), ("none", "layer1")])
def test_no_two_variants_look_alike(freeze):
    values = [
        {"net": f"net{i}", "freeze": other} for i in range(13) for other in freeze
    ]
    if len(freeze) == 1:
        values = [{"net": row["net"]} for row in values]
    variants = [Variant(str(row), row, [], 1, None) for row in values]
    rows = [Standing(v, 0, None, (0, 1), None, 0, None, None, None) for v in variants]
    assert len(set(comparison_plots.looks(rows))) == len(rows)
