"""Builds the oneDNN extension where it is missing: `python -m jaxvision.ops.build`.

Here and not at installation, which so needs neither a compiler nor a header, and is the
same files for every Python and platform. It is no module of Python's: the build hangs
on the source and jaxlib's version alone, and takes some seconds.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax

from jaxvision.files import atomic_path
from jaxvision.ops import onednn

HEADERS = "onednn-devel-cpu-gomp"
CURE = "pip install 'jaxvision[cpu]' (in a checkout: -e '.[cpu]')"


def build() -> str:
    """Builds the extension where it is missing, beside the package's own files.

    The compiler is `c++`, or what the environment variable `CXX` says.

    Returns:
      What prevents it and how to get it, in one line; empty where it is built.
    """
    if not onednn.is_possible():
        return onednn.problem()
    if onednn.extension().exists():
        return ""
    library = onednn.installed(onednn.RUNTIME, onednn.LIBRARY)
    header = onednn.installed(HEADERS, "include/dnnl.hpp")
    if library is None or header is None:
        lacking = onednn.RUNTIME if library is None else HEADERS
        return f"{lacking} is not installed: {CURE}"
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if not shutil.which(compiler[0]):
        return f"there is no C++ compiler {compiler[0]}: install g++, or set CXX to one"
    try:
        with atomic_path(onednn.extension()) as target:
            _compile(compiler, target, header=header, library=library)
    except OSError as error:
        return f"the oneDNN extension cannot be built: {error}"
    onednn.problem.cache_clear()
    onednn.available.cache_clear()
    return ""


def _compile(compiler: list[str], target: Path, *, header: Path, library: Path) -> None:
    """Raises OSError with the compiler's first complaint where it fails."""
    # Not ours to mend: -isystem keeps the headers' warnings quiet.
    headers = ["-isystem", str(header.parent), "-isystem", jax.ffi.include_dir()]
    flags = ["-std=c++17", "-O2", "-g0", "-pthread", "-shared", "-fPIC", *headers]
    files = [str(onednn.SOURCE), "-o", str(target), str(library)]
    done = subprocess.run(
        [*compiler, *flags, *files], capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
        raise OSError(next((line for line in lines if "error" in line), lines[-1]))


if __name__ == "__main__":
    sys.exit(build() or 0)
