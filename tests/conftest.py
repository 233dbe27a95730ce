"""What every test stands on: checked annotations, strict ranks, full precision."""

import os
from importlib.util import find_spec
from pathlib import Path

# Nor do the programs that tests start keep compiled code in the home folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from experiments import NEEDED  # noqa: E402
from tests.double import x64  # noqa: E402

# Every annotation of what is imported from here on is checked at every call, shapes and
# dtypes included. Here and not by pytest's option, which xdist's workers never see. The
# tower lets an int stand where a float is annotated, as Python's own typing does.
CHECKED = ("jaxvision", "converters")
jaxtyping.install_import_hook(
    CHECKED,
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

EXTRAS = {
    "app": (*NEEDED, "markupsafe"),  # the latter comes with jinja2
    "torch": ("torch", "torchvision"),
    "deep": ("imagecodecs", "tifffile"),
    "export": ("flatbuffers", "onnx", "onnxruntime"),
    "serve": ("tornado",),
    "stream": ("grain",),
    "tensorboard": ("tensorboardX",),
    "wandb": ("wandb",),
    "test": (
        "array_record",
        "tensorflow_datasets",
        "jupytext",
        "nbclient",
        "nbformat",
        "playwright",
    ),
}
"""What the tests import of each extra, beside the requirements of pytest itself."""
MISSING = {
    name: f"{name} is not installed: pip install -e '.[{extra}]'"
    for extra, names in EXTRAS.items()
    for name in names
    if find_spec(name) is None
}


def skip_missing(error: BaseException | None) -> None:
    """Skips where the error arose from a package of an extra that is not here."""
    while error is not None:
        root = (getattr(error, "name", None) or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and root in MISSING:
            pytest.skip(MISSING[root], allow_module_level=True)
        error = error.__cause__ or error.__context__


class Module(pytest.Module):
    """A file of tests, which skips where an extra is missing that it imports."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            skip_missing(error)
            raise


def pytest_pycollect_makemodule(module_path, parent):
    return Module.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Tests marked `app` or `torch` start processes that import it.

    A fixture of a module that failed once fails for each of its tests: all skip.
    """
    for extra in ("app", "torch"):
        lacking = [name for name in EXTRAS[extra] if name in MISSING]
        if lacking and item.get_closest_marker(extra):
            pytest.skip(MISSING[lacking[0]])
    try:
        return (yield)
    except Exception as error:
        skip_missing(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    try:
        return (yield)
    except Exception as error:
        skip_missing(error)
        raise


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, or a skip that says how to give it."""
    folder = os.environ.get("JAXVISION_TEST_DATA")
    if not folder:
        pytest.skip("JAXVISION_TEST_DATA is not set: no real data on this machine")
    return Path(folder)


@pytest.fixture
def unchecked():
    """Annotations unchecked, as for users: functions say themselves what is wrong."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def float64():
    """Double precision for one test."""
    with x64():
        yield
