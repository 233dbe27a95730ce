"""The cache of compiled programs: where it is, who may read it, whether it serves."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxvision import compilation

ROOT = Path(__file__).parents[1]
SETTINGS = (compilation.FOLDER, compilation.ENABLED, compilation.SECONDS)


def setting(name):
    return getattr(jax.config, name)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of our own on a processor whose programs load; JAX's settings restored."""
    for name in os.environ:
        if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(compilation, "_processor", lambda: "vendor_id : AuthenticAMD")
    before = {name: setting(name) for name in SETTINGS}
    jax.config.update(compilation.FOLDER, None)
    jax.config.update(compilation.ENABLED, True)
    yield tmp_path / "home"
    for name, value in before.items():
        jax.config.update(name, value)


def test_folder_is_private_and_jax_uses_it(home):
    old = os.umask(0o002)
    try:
        folder = compilation.use_cache()
    finally:
        os.umask(old)
    assert folder is not None and folder.parent == home / compilation.NAME
    assert setting(compilation.FOLDER) == str(folder)
    assert setting(compilation.SECONDS) < 1
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def test_an_open_folder_is_closed(home):
    folder = home / compilation.NAME
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert compilation.use_cache() is not None
    assert folder.stat().st_mode & 0o777 == 0o700


def test_folder_chosen_in_jax_wins(home, tmp_path):
    jax.config.update(compilation.FOLDER, str(tmp_path / "theirs"))
    assert compilation.use_cache() == tmp_path / "theirs"
    assert not home.exists()


def test_jax_setting_switches_it_off(home):
    jax.config.update(compilation.ENABLED, False)
    assert compilation.use_cache() is None
    assert not home.exists()


def test_folder_that_cannot_be_made_or_is_not_ours_is_not_used(home, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert compilation.use_cache() is None
    monkeypatch.setenv("JAXVISION_HOME", os.devnull)
    assert compilation.use_cache() is None
    assert setting(compilation.FOLDER) is None


def test_processor_that_loads_no_program_has_no_cache(home, monkeypatch):
    if jax.default_backend() != "cpu":
        pytest.skip("it is about programs for the CPU")
    monkeypatch.setattr(compilation, "_processor", lambda: "vendor_id : GenuineIntel")
    assert compilation.use_cache() is None


def test_cores_and_processor_have_folders_of_their_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    one = compilation.machine("a")
    assert one != compilation.machine("b")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    if sys.platform == "linux":
        assert one != compilation.machine("a")


def test_full_folder_loses_its_oldest_programs(home):
    folder = home / "another machine"
    folder.mkdir(parents=True)
    for age, name in enumerate(("new-cache", "middle-cache", "old-cache")):
        (folder / name).write_bytes(bytes(400))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    compilation._prune(home, limit=1000)
    assert {path.name for path in folder.iterdir()} == {"new-cache", "middle-cache"}


PROGRAM = """
import sys
from jax._src import monitoring
from jaxvision import compilation
compilation.loads = lambda processor: True
folder = compilation.use_cache()
found = []
monitoring.register_event_listener(lambda event, **_: found.append(event))
import jax, jax.numpy as jnp, numpy as np
from jaxvision import ops

def step(x, w):
    def loss(w):
        y = ops.conv_general_dilated(
            x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.square(jax.nn.relu(y)).mean()
    for _ in range(3):
        w = w - jax.grad(loss)(w)
    return w

rng = np.random.default_rng(0)
x = rng.standard_normal((2, 16, 16, 16), np.float32)
w = rng.standard_normal((3, 3, 16, 16), np.float32)
w = jax.jit(step, donate_argnums=1)(jnp.asarray(x), jnp.asarray(w))
hits = sum(event.endswith("/cache_hits") for event in found)
print(np.asarray(w).tobytes().hex()[:4000], hits, len(list(folder.iterdir())))
"""


@pytest.mark.slow
def test_next_process_loads_the_program_and_gets_the_same_bits(tmp_path):
    """Also with oneDNN's foreign calls in it, and after the file was damaged."""

    def run(**variables):
        environment = os.environ | {
            "JAXVISION_HOME": str(tmp_path),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        bits, hits, files = done.stdout.split()
        return bits, int(hits), int(files), done.stderr

    bits, hits, files, _ = run()
    assert hits == 0 and files > 0
    again, hits, _, _ = run()
    assert hits > 0 and again == bits
    # Another back end is another program, not the kept one.
    _, _, more, _ = run(JAXVISION_CONV="jax")
    assert more > files
    for path in (tmp_path / compilation.NAME).rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    again, hits, _, warning = run()
    assert again == bits and hits == 0
    again, hits, _, silence = run()
    assert again == bits and hits > 0 and "Error reading" not in silence
    assert "Error reading persistent compilation cache entry" in warning
