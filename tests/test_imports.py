"""The direction of imports, and what the library may not do."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

from tests.without import hiding

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "jaxvision": {"torch", "torchvision", "tensorflow", "converters", "experiments"},
    "converters": {"experiments"},
}
PACKAGES = ("jaxvision", "converters", "experiments")
PARTS = ("command", "inference", "pages", "runs", "training", "serving")
"""The folders of experiments, each of which imports none but those before it."""


def _imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            # A module of a package, perhaps; other names do no harm.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _modules() -> dict[str, set[str]]:
    """Each module of the project, and those it imports, in functions too."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = {_module(path): path for path in paths}
    return {
        name: _imports(path, top_level_only=False) & modules.keys()
        for name, path in modules.items()
    }


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_never_run_back(package):
    for path in (ROOT / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in _imports(path, top_level_only=False)}
        assert not roots & FORBIDDEN[package], path


def test_no_module_imports_itself_by_way_of_others():
    graph = _modules()
    # A package's own modules are its content: that they load it first is no circle.
    for name, imported in graph.items():
        graph[name] = {
            other for other in imported if not name.startswith(f"{other}.")
        } - {name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_parts_of_experiments_import_no_program_and_none_behind_them():
    for name, imported in _modules().items():
        if not name.startswith("experiments.") or name.count(".") == 1:
            continue
        part = PARTS.index(name.split(".")[1])
        allowed = {"experiments", *(f"experiments.{p}" for p in PARTS[: part + 1])}
        used = {
            ".".join(other.split(".")[:2])
            for other in imported
            if other.startswith("experiments")
        }
        assert used <= allowed, name


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


@pytest.mark.app
def test_experiment_starts_without_torch():
    code = (
        "import sys; import experiments.transfer; "
        "sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def _required(names: set[str]) -> set[str]:
    """The distributions that `names` need, those that they need in turn included."""
    found, waiting = set(), {re.split(r"[\s\[<>=!~;(]", name)[0] for name in names}
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        waiting |= {
            re.split(r"[\s\[<>=!~;(]", text)[0]
            for text in needed
            if "extra ==" not in text
        }
    return found


BARE = """
import importlib, pkgutil
for package in ("jaxvision", "converters"):
    for module in pkgutil.walk_packages([package], f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def test_library_and_converters_need_the_core_requirements_alone():
    """Whatever else is installed is as if it were not there."""
    core = _required(set(metadata.requires("jaxvision") or ()) - set(_extras()))
    owners = metadata.packages_distributions()
    refused = {
        module
        for module, names in owners.items()
        if not {name.lower().replace("_", "-") for name in names} & core
    } - {"jaxvision", "converters"}
    apps = {"matplotlib", "tyro", "skimage"} & owners.keys()
    assert apps <= refused and "pytest" in refused
    code = hiding(refused, BARE)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]


def _extras() -> list[str]:
    return [text for text in metadata.requires("jaxvision") or () if "extra ==" in text]
