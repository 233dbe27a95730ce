"""What a comparison comes to in words, for people who never met a p-value."""

from collections.abc import Sequence

from experiments.pages.standings import Standing, pooled
from jaxvision.analysis import calibration
from jaxvision.calibration import FEWEST, cross_fitted, fit_certainty

MANY_IMAGES = 2000
"""From here on an accuracy is worth a second digit after the point."""
LEVEL = 0.05
"""Below this probability a difference is called more than chance, as is usual."""


def outcome(rows: Sequence[Standing]) -> str:
    """One sentence: who won, and whether that is more than chance.

    Args:
      rows: what `standings` gave.
    """
    best = rows[0]
    share = percent(best.accuracy, best)
    seeds, by = len(best.variant.runs), best.variant.by
    mean = f" on average over {seeds} {by}s" if seeds > 1 else ""
    if len(rows) == 1:
        return f"{_name(best)} recognises {share} of the validation images{mean}."
    second = rows[1]
    contest = second.contest
    if _is_level(best, second):
        return f"{_name(best)} and {_name(second)} are level at {share}{mean}."
    figures = (
        f"{share}{mean}, {_points(best.accuracy - second.accuracy)} ahead of "
        f"{_name(second)}"
    )
    leads = f"{_name(best)} leads with {figures}"
    if contest is None or contest.test is None:
        problem = contest.problem if contest else "there is no test"
        return f"{leads}; whether that is chance cannot be said: {problem}."
    found = chance(contest.test.p_value)
    if seeds > 1 and by == "seed":
        found += f" with seed {contest.seed}"
    if contest.test.p_value >= LEVEL:
        return f"{leads}, but that may be chance ({found})."
    ahead, compared = _ahead(best, second)
    if ahead < compared:
        return (
            f"{leads}, but only with {ahead} of {compared} {by}s: more {by}s must "
            f"decide ({found})."
        )
    return f"{_name(best)} wins with {figures}, which is more than chance ({found})."


def sentences(rows: Sequence[Standing]) -> list[str]:
    """What stands behind `outcome`, a sentence or two each."""
    best = rows[0]
    if len(rows) == 1:
        return [_certainty(best)] if best.variant.by == "fold" else []
    second = rows[1]
    said = [_test(best, second), _seeds(best, second), _thrifty(rows)]
    if best.variant.by == "fold":
        said.append(_certainty(best))
    return [sentence for sentence in said if sentence]


def chance(p_value: float) -> str:
    """The p-value, with as many digits as tell something."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def digits(row: Standing) -> int:
    """How many digits after the point an accuracy in percent is worth."""
    return 2 if row.variant.images >= MANY_IMAGES else 1


def percent(share: float, row: Standing) -> str:
    """An accuracy with as many digits as the number of images is worth."""
    return f"{100 * share:.{digits(row)}f} %"


def _test(best: Standing, second: Standing) -> str:
    """McNemar's test in words."""
    contest = second.contest
    if contest is None or contest.test is None:
        return ""
    test = contest.test
    where = ""
    if len(best.variant.runs) > 1 and best.variant.by == "seed":
        where = f"In the runs with seed {contest.seed}: "
    split = test.first + test.second
    if not split:
        return f"{where}Both recognised exactly the same images."
    images = "one image" if split == 1 else f"{split} images"
    return (
        f"{where}{images[:1].upper()}{images[1:]} {'was' if split == 1 else 'were'} "
        f"recognised by only one of the two, {test.first} by {_name(best)} and "
        f"{test.second} by {_name(second)}. {_odds(test.p_value)} (McNemar’s exact "
        f"test, {chance(test.p_value)}; below {LEVEL} is called more than chance)."
    )


def _certainty(row: Standing) -> str:
    """How far a model's percentages are off, each photo judged once."""
    found = pooled(row.variant.runs)
    if found is None or len(found) < FEWEST:
        return ""
    before, after = (
        f"{100 * calibration(found.labels, table).error:.1f}"
        for table in (
            found.probabilities,
            cross_fitted(found.labels, found.probabilities),
        )
    )
    certainty = fit_certainty(found.labels, found.probabilities)
    cured = (
        "which no temperature betters"
        if certainty.temperature == 1
        else f"and by {after} after a temperature, each part of the images by that of "
        "the others"
    )
    return (
        f"The percentages of {_name(row)} are off by {before} points (the expected "
        f"calibration error over all {len(found)} images), {cured}."
    )


def _odds(p_value: float) -> str:
    if p_value > 0.995:
        return "Two equally good models nearly always differ by so much"
    if p_value < 0.001:
        often = "fewer than 1 of 1,000"
    elif p_value < 0.01:
        often = "fewer than 1 of 100"
    else:
        often = f"about {round(100 * p_value)} of 100"
    return f"Two equally good models would differ by so much in {often} comparisons"


def _seeds(best: Standing, second: Standing) -> str:
    """How many of the seeds agree with the mean."""
    ahead, compared = _ahead(best, second)
    if compared < 2:
        return ""
    by = best.variant.by
    which = f"{ahead} of the {compared} {by}s"
    if ahead == compared:
        which = f"each of the {compared} {by}s"
    return f"{_name(best)} was the better of the two with {which}."


def _ahead(best: Standing, second: Standing) -> tuple[int, int]:
    """With how many seeds the best was ahead, of how many that both have."""
    theirs = {run.seed: run.accuracy for run in second.variant.runs}
    pairs = [
        (run.accuracy, theirs[run.seed])
        for run in best.variant.runs
        if run.seed in theirs
    ]
    return sum(a > b for a, b in pairs), len(pairs)


def _thrifty(rows: Sequence[Standing]) -> str:
    """The cheapest variant that the images cannot tell from the best."""
    best = rows[0]
    cost = best.variant.gflop
    found = [row for row in rows[1:] if _may_be_as_good(row, best)]
    priced = [(row.variant.gflop, row) for row in found if row.variant.gflop]
    if not priced or cost is None:
        return ""
    least, row = min(priced, key=lambda pair: pair[0])
    if least > 0.9 * cost:
        return ""
    contest = row.contest
    assert contest is not None and contest.test is not None
    return (
        f"{_name(row)} costs {least:.3g} GFLOP an image instead of {cost:.3g}, and "
        "these validation images cannot tell whether it is worse "
        f"({percent(row.accuracy, row)}, {chance(contest.test.p_value)})."
    )


def _may_be_as_good(row: Standing, best: Standing) -> bool:
    if row.contest is None or row.contest.test is None:
        return False
    if row.contest.test.p_value < LEVEL:
        return False
    # A test of one seed is not the last word where the seeds' intervals lie apart.
    return len(row.variant.runs) == 1 or row.interval[1] >= best.interval[0]


def _is_level(a: Standing, b: Standing) -> bool:
    return abs(a.accuracy - b.accuracy) < 1e-9


def _points(difference: float) -> str:
    points = 100 * difference
    text = f"{points:.1f}" if points >= 0.1 else f"{points:.2g}"
    return f"{text} {'point' if text == '1.0' else 'points'}"


def _name(row: Standing) -> str:
    return f"“{row.variant.name}”"
