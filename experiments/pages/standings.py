"""Variants beside each other: how sure each figure is, and which lead is no chance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.pages import history as curves_of
from experiments.pages.history import History
from jaxvision.analysis import Interval, McNemar, mcnemar, t_interval
from jaxvision.evaluation import Evaluation
from jaxvision.metrics import wilson_interval

RESAMPLES = 2000
"""Draws of a bootstrap."""


class Repeat(NamedTuple):
    """One run of a variant, as its folder has it.

    Attributes:
      seed: what tells it from the variant's other runs: the seed, or the fold.
      accuracy, macro_f1: of the kept model, in [0, 1].
      images: how many judged it.
      history: the rows of `metrics.csv`; empty where they are lost.
      evaluation: of the kept model; None where its predictions are lost.
      report: its report, seen from the comparison; empty where there is none.
    """

    seed: int
    accuracy: float
    macro_f1: float
    images: int
    history: History
    evaluation: Evaluation | None
    report: str


class Variant(NamedTuple):
    """One combination of options.

    Attributes:
      name: of the variant.
      values: option -> value, of the options that differ between variants.
      runs: one a seed, at least one.
      parameters: how many numbers are learned.
      gflop: 1e9 multiply-adds of one image, or None.
      by: what its runs differ in: `seed`, or `fold`, and then each was judged by images
        of its own, which together are all.
    """

    name: str
    values: Mapping[str, str]
    runs: Sequence[Repeat]
    parameters: int
    gflop: float | None
    by: str = "seed"

    @property
    def images(self) -> int:
        """How many images judged it."""
        counts = [run.images for run in self.runs]
        return sum(counts) if self.by == "fold" else counts[0]


class Contest(NamedTuple):
    """The best variant against another, in their runs with one seed, or all folds.

    `test.first` counts the images that the best alone had right. Where the two cannot
    be compared, `test` is None and `problem` says why.
    """

    seed: int
    test: McNemar | None
    problem: str = ""


class Standing(NamedTuple):
    """What a variant came to: means over its runs.

    Attributes:
      std: deviation over the runs; None of a single one.
      interval: 95 % of the accuracy: Student's over the runs; of a single run `images`.
      images: 95 % of the accuracy over other validation images, by bootstrap of the
        share of runs that had an image right; None where the seeds' images differ.
      minutes, seconds: of the training and of an epoch; None where they are lost.
      contest: against the best; None for the best.
    """

    variant: Variant
    accuracy: float
    std: float | None
    interval: Interval
    images: Interval | None
    macro_f1: float
    minutes: float | None
    seconds: float | None
    contest: Contest | None


def standings(variants: Sequence[Variant]) -> list[Standing]:
    """The variants, best accuracy first; of equal ones, in the order given."""
    found = sorted(map(_standing, variants), key=lambda row: -row.accuracy)
    return [
        row._replace(contest=contest(found[0].variant, row.variant)) if rank else row
        for rank, row in enumerate(found)
    ]


def contest(best: Variant, other: Variant) -> Contest:
    """McNemar's test of two variants, in their runs with the first seed of both.

    Of folds it is all runs, whose images together are one set.
    """
    seeds = sorted({run.seed for run in best.runs} & {run.seed for run in other.runs})
    if not seeds:
        return Contest(0, None, f"{best.name} and {other.name} share no {best.by}")
    seed = seeds[0]
    taken = seeds if best.by == other.by == "fold" else seeds[:1]
    both = []
    for variant in (best, other):
        runs = [run for run in variant.runs if run.seed in taken]
        evaluation = pooled(sorted(runs, key=lambda run: run.seed))
        if evaluation is None:
            reason = f"the predictions of {variant.name} are missing or damaged"
            return Contest(seed, None, reason)
        both.append(evaluation)
    first, second = both
    if not _same_images(first, second):
        reason = f"{best.name} and {other.name} were judged by different images"
        return Contest(seed, None, reason)
    return Contest(seed, mcnemar(first.labels, first.predictions, second.predictions))


def pooled(runs: Sequence[Repeat]) -> Evaluation | None:
    """What the runs said of all their images; None where it is lost for some."""
    known = [run.evaluation for run in runs if run.evaluation is not None]
    if len(known) < len(runs) or len({one.classes for one in known}) > 1:
        return None
    return Evaluation(
        paths=tuple(path for one in known for path in one.paths),
        labels=np.concatenate([one.labels for one in known]),
        probabilities=np.concatenate([one.probabilities for one in known]),
        classes=known[0].classes,
    )


def image_interval(variant: Variant) -> Interval | None:
    """95 % of the mean accuracy over validation images drawn with replacement.

    An image counts by the share of the runs that had it right. Where no draw can differ
    (all images right, say) it is Wilson's interval. None where the runs were judged by
    different images, or predictions are lost.
    """
    runs = variant.runs
    found = [pooled(runs)] if variant.by == "fold" else [run.evaluation for run in runs]
    known = [one for one in found if one is not None]
    if len(known) < len(found) or not all(_same_images(known[0], x) for x in known):
        return None
    right = np.sum([x.predictions == x.labels for x in known], axis=0)
    # How often an image was right has few values: to draw images is to draw those.
    counts = np.bincount(right, minlength=len(known) + 1)
    total = len(right)
    drawn = np.random.default_rng(0).multinomial(total, counts / total, RESAMPLES)
    means = drawn @ np.arange(len(known) + 1) / (len(known) * total)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return (low, high) if low < high else wilson_interval(round(low * total), total)


def _standing(variant: Variant) -> Standing:
    runs = variant.runs
    spread = t_interval([run.accuracy for run in runs])
    images = image_interval(variant)
    interval = spread.low, spread.high
    if len(runs) == 1:
        (run,) = runs
        hits = round(run.accuracy * run.images)
        interval = images or wilson_interval(hits, run.images)
    seconds = [curves_of.values(run.history, "seconds") for run in runs if run.history]
    timed = len(seconds) == len(runs)
    return Standing(
        variant=variant,
        accuracy=spread.mean,
        std=spread.std if len(runs) > 1 else None,
        interval=interval,
        images=images,
        macro_f1=float(np.mean([run.macro_f1 for run in runs])),
        minutes=float(np.mean([x.sum() for x in seconds])) / 60 if timed else None,
        seconds=float(np.mean(np.concatenate(seconds))) if timed else None,
        contest=None,
    )


def _same_images(a: Evaluation, b: Evaluation) -> bool:
    return (
        a.paths == b.paths
        and a.classes == b.classes
        and np.array_equal(a.labels, b.labels)
    )
