"""The direction of imports, and what the library may not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "jaxvision": {"torch", "torchvision", "tensorflow", "converters", "experiments"},
    "converters": {"experiments"},
}


def _imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_never_run_back(package):
    for path in (ROOT / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in _imports(path, top_level_only=False)}
        assert not roots & FORBIDDEN[package], path


def test_torch_is_imported_inside_functions_of_converters_alone():
    for package in ("converters", "experiments"):
        for path in (ROOT / package).rglob("*.py"):
            found = _imports(path, top_level_only=package == "converters")
            assert not {name.split(".")[0] for name in found} & {"torch", "torchvision"}


def test_models_know_no_training_and_training_knows_no_architecture():
    for path in (ROOT / "jaxvision" / "models").rglob("*.py"):
        names = _imports(path, top_level_only=False)
        assert not names & {"jaxvision.train", "jaxvision.optim", "optax"}, path
    for name in ("train.py", "optim.py", "functional.py"):
        names = _imports(ROOT / "jaxvision" / name, top_level_only=False)
        assert not any(n.startswith("jaxvision.models") for n in names), name


def test_only_functional_splits_and_merges_modules():
    for path in (ROOT / "jaxvision").rglob("*.py"):
        if path.name != "functional.py":
            text = path.read_text()
            assert not any(f"nnx.{w}(" in text for w in ("split", "merge", "view")), (
                path
            )


def test_library_prints_nothing():
    for path in (ROOT / "jaxvision").rglob("*.py"):
        calls = [
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "print" not in calls, path


def test_experiment_starts_without_torch():
    code = (
        "import sys; import experiments.transfer; "
        "sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
