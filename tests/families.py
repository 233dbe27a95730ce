"""What the tests that take one backbone of each family go through."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from jaxvision import models


def one_a_family(*wanted: str) -> tuple[str, ...]:
    """For each family of backbones those `wanted` of it, else its first variant."""
    chosen = []
    for family in models.FAMILIES:
        if family.TASK == "imagenet":
            named = [name for name in wanted if name in family.VARIANTS]
            chosen += named or [next(iter(family.VARIANTS))]
    return tuple(chosen)


def slow_but(quick: Collection[str], names: Iterable[str]) -> list[Any]:
    """Parameters of a test, those that are not `quick` marked slow."""
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


ONE_A_FAMILY = one_a_family()
