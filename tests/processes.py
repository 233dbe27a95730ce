"""Programs that tests start as one process, or several, of so many CPU devices each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def started(count, devices, *words, folder, each=()):
    """Starts `python -m WORDS` as `count` processes, which find one another.

    What each says goes to `folder/INDEX.out` and `folder/INDEX.err`; it works in the
    folder `folder/INDEX`.

    Args:
      count, devices: processes, and devices of each.
      words: of all.
      folder: theirs.
      each: further words of each process, where they differ.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(count):
        (folder / str(index)).mkdir(exist_ok=True)
        own = each[index] if each else ()
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        with (
            open(folder / f"{index}.out", "w") as out,
            open(folder / f"{index}.err", "w") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, (*words, *own))],
                env=environment,
                cwd=folder / str(index),
                stdout=out,
                stderr=err,
            )
        found.append(process)
    return found


def ended(started, *, timeout=600):
    """The exit codes of processes, which are ended where they do not end."""
    try:
        return [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()


def said(folder, index, stream="err"):
    """What a process said, without what gloo says."""
    lines = (folder / f"{index}.{stream}").read_text().splitlines()
    return [line for line in lines if not line.startswith("[Gloo]")]
