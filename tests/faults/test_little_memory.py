"""With little memory left, oneDNN computes or says so: the process does not end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxvision.ops import onednn

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from jaxvision.ops import conv_general_dilated, onednn

assert onednn.available()
x, w = (jnp.asarray(np.ones(s, np.float32)) for s in ((8, 32, 32, 32), (3, 3, 32, 32)))

@jax.jit
def gradient(x, w):
    def loss(w):
        y = conv_general_dilated(
            x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.square(y).sum()
    return jax.grad(loss)(w)

compiled = gradient.lower(x, w).compile()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(float(compiled(x, w)[1, 1, 0, 0]))
except jax.errors.JaxRuntimeError:
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux's limit of memory")
@pytest.mark.skipif(not onednn.available(), reason=onednn.problem())
@pytest.mark.parametrize("spare", [2, 4, 16, 18])
def test_first_call_short_of_memory_does_not_end_the_process(spare):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(spare)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAXVISION_CONV": "onednn", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    result = done.stdout.strip()
    assert result == "refused" or float(result) == 2 * 8 * 32 * 94**2
