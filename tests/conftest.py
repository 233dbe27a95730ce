"""What every test stands on: checked annotations, strict ranks, full precision."""

import os
from pathlib import Path

# Nor do the programs that tests start keep compiled code in the home folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

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
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
