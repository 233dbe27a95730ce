"""What one waits for at the first command, with a server on 127.0.0.1.

    python -m benchmarks.first_command [BACKBONE]

The weights are made, of the backbone's true size; the caches are new and are deleted.
"""

import functools
import hashlib
import http.server
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flax import nnx

from converters import cache, download, weights
from converters.to_torch import to_state_dict
from converters.torch_file import write_torch
from experiments import transfer
from experiments.command.options import check_environment
from jaxvision import models
from jaxvision.functional import functionalize


@contextmanager
def timed(what: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_args) -> None:
        """Nobody reads it."""


def serve(folder: Path, name: str) -> weights.Row:
    """Starts a server of made weights, and sets the caches and the table to them."""
    model = models.create(name, rngs=nnx.Rngs(0))
    made = folder / "made.pth"
    write_torch(made, to_state_dict(model, *functionalize(model)[1:]))
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    size = made.stat().st_size
    row = replace(weights.find(name), sha256_prefix=digest[:8], mib=size / 2**20)
    made.rename(folder / row.file)
    weights.TABLE = (row,)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "JAXVISION_WEIGHTS_URL": f"http://127.0.0.1:{server.server_port}",
        "JAXVISION_HOME": str(folder / "ours"),
        "TORCH_HOME": str(folder / "torch"),
        "no_proxy": "127.0.0.1",
    }
    return row


def main(name: str) -> None:
    name = models.variant(name).name
    with tempfile.TemporaryDirectory() as folder:
        row = serve(Path(folder), name)
        check_environment()
        with timed(f"download and hash of {row.mib:.0f} MiB"):
            path = download.fetch(row)
        with timed("conversion"):
            arrays = weights.load_state_dict(path)
            download.write_params(row, arrays, source_sha256=cache.sha256(path))
        with timed("reading the converted copy, at every start"):
            download.read_params(row)
        for start in ("first", "second"):
            with timed(f"{start} start, to the end of the first step at 64 px"):
                transfer.main(transfer.Config(backbone=(name,), dry_run=True))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["wide_resnet50_2"])
