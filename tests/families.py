"""What the tests that take one backbone of each family go through."""

from jaxvision import models


def one_a_family(*wanted: str) -> tuple[str, ...]:
    """For each family of backbones those `wanted` of it, else its first variant."""
    chosen = []
    for family in models.FAMILIES:
        if family.TASK == "imagenet":
            named = [name for name in wanted if name in family.VARIANTS]
            chosen += named or [next(iter(family.VARIANTS))]
    return tuple(chosen)


ONE_A_FAMILY = one_a_family()
