"""How oneDNN's convolutions in bfloat16 are shared out, and what is left to float32."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxvision.ops import onednn
from tests.convolutions import case, operands

pytestmark = pytest.mark.skipif(
    not onednn.multiplies("bfloat16"), reason="oneDNN multiplies no bfloat16 here"
)

PARTS = """
import os, sys, threading
import jax, jax.numpy as jnp, numpy as np
from jaxvision.ops import onednn
from jaxvision.ops.geometry import Geometry
assert onednn.available()
batch, calls = map(int, sys.argv[1:])
geometry = Geometry((2, 2), ((2, 2), (2, 2)), (2, 2), 2)
numbers = 1 + jnp.arange(batch, dtype=jnp.bfloat16)
x = jnp.broadcast_to(numbers[:, None, None, None], (batch, 32, 32, 16))
g = jnp.ones((batch, 16, 16, 16), jnp.bfloat16)
gradient = jax.jit(lambda x, g: onednn._kernel_gradient(x, g, geometry, (3, 3)))
w = np.asarray(gradient(x, g), np.float64)
assert (w[1, 1] == 256 * batch * (batch + 1) / 2).all(), w[1, 1]
count = lambda: len(os.listdir("/proc/self/task"))
seen, ended = [], threading.Event()
def watch():
    while not ended.is_set():
        seen.append(count())
watcher = threading.Thread(target=watch)
watcher.start()
before = count()
for _ in range(calls):
    jax.block_until_ready(gradient(x, g))
ended.set()
watcher.join()
print("more threads:", max(seen, default=before) - before)
"""
"""A geometry for which oneDNN takes a matrix product, with a team of threads."""


def run_parts(batch: int, calls: int, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PARTS, str(batch), str(calls)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("batch", "parts"), [(2, [2]), (3, [1, 1, 1]), (5, [1, 2, 2]), (7, [2, 2, 3])]
)
def test_threads_share_out_any_batch_not_smaller_than_they_are(batch, parts):
    out = run_parts(batch, 0, OMP_NUM_THREADS="3", ONEDNN_VERBOSE="1")
    found = re.findall(r"backward_weights,.*bf16.*,g2mb(\d+)_", out)
    assert sorted(map(int, found)) == parts


def test_each_part_computes_on_one_thread():
    """Eight parts are seven threads more; teams of eight would be 56."""
    out = run_parts(8, 30, OMP_NUM_THREADS="8")
    more = re.fullmatch(r"more threads: (\d+)\n", out)
    assert more and int(more[1]) <= 7, out


@pytest.mark.parametrize(
    ("chosen", "types"),
    [
        (case(9, 16, 16, 3, stride=2, groups=16), ["bf16", "f32", "bf16"]),
        (case(9, 16, 16, 5, groups=16), ["bf16", "bf16", "f32"]),
        (case(9, 16, 16, 3, dilation=2, groups=16), ["bf16", "bf16", "f32"]),
        (case(9, 16, 16, 3, groups=16), ["bf16", "bf16", "bf16"]),
        (case(9, 8, 16, 3, stride=2, groups=8), ["bf16", "f32", "f32"]),
        (case(9, 16, 16, 3, stride=2, groups=4), ["bf16", "bf16", "bf16"]),
        (case(9, 1, 16, 5, stride=2), ["bf16", "bf16", "bf16"]),
    ],
)
def test_gradients_slower_in_bfloat16_are_computed_in_float32(chosen, types):
    """Output, gradient of the input, of the kernel: the types that oneDNN computes."""

    def run(x, w, g):
        y, pull = jax.vjp(lambda x, w: onednn.convolve(x, w, chosen.geometry), x, w)
        return y, pull(g)

    arrays = [jnp.asarray(a, jnp.bfloat16) for a in operands(chosen)]
    text = str(jax.make_jaxpr(run)(*arrays))
    assert re.findall(r":(b?f\d+)\[[\d,]+\] = ffi_call", text) == types
    y, gradients = jax.eval_shape(run, *arrays)
    assert {a.dtype for a in (y, *gradients)} == {jnp.dtype("bfloat16")}
