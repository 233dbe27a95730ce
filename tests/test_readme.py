"""The README's programs run as they stand there."""

import re
from pathlib import Path

import pytest

from converters.torchvision_import import import_torchvision

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.torch
def test_readme_programs_run():
    pytest.importorskip("torch")
    import_torchvision()
    blocks = re.findall(
        r"<!-- run as a test -->\n```python\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:  # the second goes on where the first ends
        exec(compile(block, str(README), "exec"), names)
    assert names["logits"].shape == (4, 9)


def test_readme_options_exist():
    from experiments import (
        cifar10,
        export,
        judge,
        predict,
        serve,
        superres,
        transfer,
        upscale,
    )
    from jaxvision.optim import Optim

    table = re.findall(r"`--([a-z.-]+)", README.read_text())
    known = {f"optim.{name}" for name in Optim.__dataclass_fields__} | {"help"}
    for program in (
        transfer,
        cifar10,
        superres,
        upscale,
        judge,
        predict,
        export,
        serve,
    ):
        known |= set(program.Config.__dataclass_fields__)
    assert {word.replace("-", "_") for word in table} <= known
