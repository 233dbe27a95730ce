"""What every test stands on: strict ranks, full precision, the real data's folder."""

import os
from pathlib import Path

# Nor do the programs that tests start keep compiled code in the home folder.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax  # noqa: E402
import pytest  # noqa: E402

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
def float64():
    """Double precision for one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
