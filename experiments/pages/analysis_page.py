"""The findings in words: what the sections of `findings.html` are filled with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.pages import analysis_plots as plots
from experiments.pages import history as curves_of
from experiments.pages.findings import Findings, Hard, Leak, Picture, Twins
from experiments.pages.history import History
from experiments.pages.photos import jpeg
from jaxvision.analysis import MISSED

THUMB, LARGE = 160, 224
"""Longest side in pixels of a photo among many, and of one to be looked at."""
LOUD = 0.05
"""A model that is surer than right by more than this share is called so at the top."""
FEWEST = 50
"""Images below which that would be noise."""
TRUSTED = 0.8
"""Accuracy from which on a model's doubts about labels are worth a line at the top."""
CHANCE = 0.05
"""What is likelier than that by chance is not called a finding."""
NAMED = 3
"""Missed classes that the list at the top names."""

Line = dict[str, str]
"""What stands out: `text`, and the `section` with the rest, whose id is `target`."""


def describe(
    findings: Findings, history: History, classes: Sequence[str]
) -> dict[str, Any]:
    """Everything that `findings.html` shows, with photos as data URIs."""
    return {
        "first": first_look(findings, history, classes),
        "overfitting": _overfitting(findings, history),
        "missed": [
            {"name": classes[row.index], **row._asdict()} for row in findings.missed
        ],
        "pairs": [
            {
                "pair": shown.pair,
                "mistaken": [_thumb(picture) for picture in shown.mistaken],
                "typical": [_thumb(picture) for picture in shown.typical],
            }
            for shown in findings.pairs
        ],
        "calibration": _calibration(findings),
        "explained": [_hard(one) for one in findings.hard if one.heat is not None],
        "hard": [_hard(one) for one in findings.hard if one.heat is None],
        "all_right": all(one.label == one.prediction for one in findings.hard),
        "suspects": [
            {**one._asdict(), **_thumb(one.picture)} for one in findings.suspects
        ],
        "suspect_count": findings.suspect_count,
        "trusted": _is_trusted(findings),
        "leak": findings.leak,
        "leaked": [_twins(pair) for pair in findings.leaked],
        "twins": [_twins(pair) for pair in findings.twins],
        "twin_count": findings.twin_count,
        "searched": findings.searched,
        "cut": findings.cut and findings.cut._asdict() | {"chance": CHANCE},
    }


def first_look(
    findings: Findings, history: History, classes: Sequence[str]
) -> list[Line]:
    """One sentence on each thing that stands out, the gravest first."""
    lines = [
        (_leak_line(findings.leak), "Images that are there twice", "duplicates"),
        (_missed_line(findings, classes), "Class by class", "classes"),
        (_overfitting_line(findings, history), "How training went", "training"),
        (_certainty_line(findings), "Its certainty", "certainty"),
        (_cut_line(findings), "What was cut away", "cut"),
        (_suspect_line(findings), "Labels that look wrong", "labels"),
    ]
    return [
        {"text": text, "section": section, "target": target}
        for text, section, target in lines
        if text
    ]


def _leak_line(leak: Leak) -> str:
    if not leak.images:
        return ""
    few = leak.images == 1
    what = "validation image is" if few else "validation images are"
    text = f"{leak.images} {what} in the training set too"
    if leak.conflicts:
        text += f", {leak.conflicts} of them with another label"
    if not leak.total:
        return f"{text}: the result says nothing of new images."
    return (
        f"{text}, so the result is flattered. Without "
        f"{'it' if few else 'them'}: {_percent(leak.accuracy)} of {leak.total}."
    )


def _missed_line(findings: Findings, classes: Sequence[str]) -> str:
    rows = findings.missed
    if not rows:
        return ""
    names = [f"“{classes[row.index]}”" for row in rows[:NAMED]]
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    verb = "is" if len(rows) == 1 else "are"
    unseen = all(row.predicted < MISSED * row.support for row in rows)
    what = "predicted" if unseen else "recognised"
    return f"{', '.join(names)}{more} {verb} never or hardly ever {what}."


def _overfitting_line(findings: Findings, history: History) -> str:
    if findings.overfitted is None:
        return ""
    epoch = curves_of.epochs(history)[findings.overfitted]
    return f"After epoch {epoch:g} the model learned its examples by heart."


def _certainty_line(findings: Findings) -> str:
    found = findings.calibration
    if abs(found.surplus) < LOUD or found.count.sum() < FEWEST:
        return ""
    sure, right = _means(findings)
    kind = "surer than it is right" if found.surplus > 0 else "less sure than right"
    return (
        f"The model is {kind}: {_percent(sure)} sure on average, right in "
        f"{_percent(right)}."
    )


def _cut_line(findings: Findings) -> str:
    found = findings.cut
    if found is None or found.p_value >= CHANCE:
        return ""
    return (
        f"More was cut away of the mistaken photos ({_percent(found.wrong)}) than of "
        f"the others ({_percent(found.right)}; p = {found.p_value:.2g}): try --fit pad."
    )


def _suspect_line(findings: Findings) -> str:
    count = findings.suspect_count
    if not count or not _is_trusted(findings):
        return ""
    return f"{count} {'label looks' if count == 1 else 'labels look'} wrong."


def _is_trusted(findings: Findings) -> bool:
    return _means(findings)[1] >= TRUSTED


def _overfitting(findings: Findings, history: History) -> dict[str, Any] | None:
    """The gap panel, and the losses where overfitting starts and at the end."""
    if not plots.has_gap(history):
        return None
    shown: dict[str, Any] = {
        "svg": Markup(plots.gap(history, findings.overfitted)),
        "words": plots.describe_gap(history),
        "epoch": None,
    }
    if findings.overfitted is not None:
        at = findings.overfitted
        shown["epoch"] = f"{curves_of.epochs(history)[at]:g}"
        for part in ("train", "val"):
            values = curves_of.values(history, f"{part}_loss")
            last = values[np.isfinite(values)][-1]
            shown[part] = f"{values[at]:.3f}", f"{last:.3f}"
    return shown


def _calibration(findings: Findings) -> dict[str, Any]:
    found, trust = findings.calibration, findings.trust
    sure, right = _means(findings)
    rows = [
        {
            "range": f"{100 * low:.0f} to {100 * high:.0f} %",
            "count": int(count),
            "confidence": float(confidence),
            "accuracy": float(accuracy),
        }
        for low, high, count, confidence, accuracy in zip(
            found.edges[:-1],
            found.edges[1:],
            found.count,
            found.confidence,
            found.accuracy,
            strict=True,
        )
        if count
    ]
    return {
        "panels": [
            {
                "svg": Markup(plots.reliability(found)),
                "words": "Share of right predictions by how sure the model is; the "
                "figures are in the table below",
            },
            {
                "svg": Markup(plots.certainties(found)),
                "words": "Number of images by how sure the model is",
            },
        ],
        "error": found.error,
        "sure": sure,
        "right": right,
        "surplus": found.surplus,
        "rows": rows,
        "temperature": trust.temperature,
        "before": trust.before.error,
        "chance": trust.chance,
        "thresholds": [
            {
                "precision": f"{level:g}",
                "limit": limit,
                "share": judged.answered / judged.images,
                **judged._asdict(),
            }
            for level, limit, judged in trust.thresholds
        ],
    }


def _means(findings: Findings) -> tuple[float, float]:
    """Mean confidence and accuracy."""
    found = findings.calibration
    total = found.count.sum()
    sure, right = (
        float(found.count @ np.nan_to_num(values) / total)
        for values in (found.confidence, found.accuracy)
    )
    return sure, right


def _thumb(picture: Picture, *, longest: int = THUMB) -> dict[str, str]:
    return {
        "image": jpeg(picture.image, longest=longest, quality=84),
        "path": picture.path,
    }


def _hard(one: Hard) -> dict[str, Any]:
    heat = None
    if one.heat is not None:
        heat = [jpeg(side, longest=LARGE, quality=84) for side in one.heat]
    return {
        **one._asdict(),
        **_thumb(one.picture, longest=LARGE),
        "right": one.label == one.prediction,
        "heat": heat,
    }


def _twins(pair: Twins) -> dict[str, Any]:
    sides = zip(pair.pictures, pair.labels, pair.sets, strict=True)
    return {
        "sides": [
            {**_thumb(picture), "label": label, "set": name}
            for picture, label, name in sides
        ],
        "mirrored": pair.mirrored,
        "conflict": pair.labels[0] != pair.labels[1],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
