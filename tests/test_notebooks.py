"""The notebooks run from top to bottom, and each pair says the same."""

import os
from pathlib import Path

import jupytext
import nbclient
import pytest
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
TINY = {
    "transfer": {"BACKBONE": "resnet18", "IMAGE_SIZE": 32, "EPOCHS": 2},
    "cifar10": {
        "DATA": "demo",
        "FULLY_CONNECTED": "fcn_baseline",
        "CONVOLUTIONAL": "cnn_small",
        "EPOCHS": 2,
    },
    "superres": {"EPOCHS": 1, "REPEAT": 2},
}
"""Notebook -> what of its settings is other here."""


def read(name):
    return jupytext.read(ROOT / "notebooks" / f"{name}.ipynb")


@pytest.mark.parametrize("name", TINY)
def test_pairs_agree_and_keep_no_output(name):
    notebook = read(name)
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ], f"jupytext --sync notebooks/{name}.py"
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert f"blob/main/notebooks/{name}.ipynb" in notebook.cells[0].source


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("name", TINY)
def test_runs_from_top_to_bottom(name, tmp_path):
    notebook = read(name)
    (settings,) = (
        index
        for index, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", ())
    )
    known = notebook.cells[settings].source
    assert all(f"{option} = " in known for option in TINY[name])
    values = [f"{option} = {value!r}" for option, value in TINY[name].items()]
    notebook.cells.insert(settings + 1, new_code_cell("\n".join(values)))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAXVISION_HOME": str(tmp_path),
        "JAXVISION_WEIGHTS_URL": "http://127.0.0.1:9",  # where nobody answers
    }
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=environment)

    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4
    assert not [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stderr" and "Error" in output["text"]
    ]
