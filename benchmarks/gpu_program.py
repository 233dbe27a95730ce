"""What XLA makes of a training step for a GPU, compiled where there is none.

    pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12
    python -m benchmarks.gpu_program --only resnet18 mobilenet_v2

The plugin compiles for a described GPU (an H100) without a driver. What it leaves out
is what needs one: cuDNN's algorithms are not tried. So its seconds are the compiler's
own, and the convolutions that differ, in training and besides in evaluation, are what
a GPU has to try out. Processor seconds, of the programs that XLA starts (ptxas) too.
"""

import re
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks.nets import GPU_BATCH, NETS
from jaxvision import losses, models, optim, train
from jaxvision.functional import functionalize
from jaxvision.ops import convolution

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""By the data sheet, as XLA describes GPUs."""
CONVOLUTION = re.compile(r'custom_call_target="(__cudnn\$conv\w+)"')


@dataclass(frozen=True)
class Config:
    """Compiles training and evaluation steps for a GPU that is not there."""

    only: tuple[str, ...] = ("resnet18", "mobilenet_v2", "wide_resnet50_2")
    """Nets."""
    batch: int = GPU_BATCH
    """Images a step."""
    size: int = 0
    """Pixels a side; 0 is the net's own."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """What it computes in."""


def main(config: Config) -> None:
    """Prints a line a net."""
    # Traced as on a GPU, where XLA's convolutions are taken as they are.
    convolution._platform = lambda: "gpu"
    device = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology="1x1x1"
    ).devices[0]
    sharding = SingleDeviceSharding(device)
    print("| net | trace s | compile s | convolutions | fusions | evaluation adds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in config.only:
        trained, judged = _programs(config, name)
        traced, compiled, text = _compile(*trained, sharding)
        convolutions, fusions = _convolutions(text), _fusions(text)
        there = set(convolutions)
        evaluated = _convolutions(_compile(*judged, sharding)[2])
        print(
            f"| {name} | {traced:.1f} | {compiled:.1f} | "
            f"{len(convolutions)}, {len(there)} differ | "
            f"{len(fusions)}, {len(set(fusions))} differ | "
            f"{len(set(evaluated) - there)} of {len(set(evaluated))} |",
            flush=True,
        )


def _programs(config: Config, name: str) -> tuple[Any, Any]:
    """The training step and the forward pass, each with its abstract arguments."""
    net = NETS[name]
    size = config.size or net.size
    model = models.abstract(name, num_classes=net.classes)
    dtype = None if config.dtype == "float32" else jnp.dtype(config.dtype)
    apply, params, stats = functionalize(model, dtype=dtype)
    tx = optim.make_optimizer(optim.Optim(weight_decay=1e-4), 1e-4)
    state = jax.eval_shape(lambda p, s: train.init_state(p, s, tx), params, stats)
    images = jax.ShapeDtypeStruct((config.batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((config.batch,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = train.make_train_step(apply, losses.classification(), tx)
    forward = jax.jit(lambda params, stats, images: apply(params, stats, images)[0])
    return (
        (step, (state, {"image": images, "label": labels}, key)),
        (forward, (params, stats, images)),
    )


def _compile(
    function: Any, arguments: Any, sharding: jax.sharding.Sharding
) -> tuple[float, float, str]:
    """Seconds of tracing and of compiling, and what came out as text."""
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    traced, lowered = _timed(lambda: function.trace(*arguments).lower())
    seconds, compiled = _timed(lowered.compile)
    return traced, seconds, compiled.as_text()


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """The call's processor seconds, with those of ended children, and its result."""

    def spent() -> float:
        found = map(
            resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return sum(use.ru_utime + use.ru_stime for use in found)

    begun = spent()
    result = call()
    return spent() - begun, result


def _convolutions(text: str) -> list[str]:
    """What each convolution is, without names: equal ones are tried out once."""
    shapes = dict(re.findall(r"%([\w.\-]+) = (\(?\w+\[[\d,]*\])", text))
    found = []
    for line in text.splitlines():
        if " custom-call(" in line and (target := CONVOLUTION.search(line)):
            out, given = re.findall(
                r"= \(?(\S+?\[[\d,]*\]).*? custom-call\((.*?)\)", line
            )[0]
            inputs = [
                shapes.get(name.strip().lstrip("%"), name) for name in given.split(",")
            ]
            said = re.findall(r"(?:window|dim_labels|feature_group_count)=[^,]+", line)
            found.append(" ".join([target[1], out, *inputs, *said]))
    return found


def _fusions(text: str) -> list[str]:
    """The body of each fusion, its names replaced by numbers."""
    bodies = {}

    def numbered(body: str) -> str:
        known: dict[str, str] = {}
        return re.sub(
            r"%[\w.\-]+", lambda m: known.setdefault(m[0], f"%{len(known)}"), body
        )

    for name, body in re.findall(r"\n%([\w.\-]+) \(.*?\n(.*?)\n\}", text, re.S):
        body = re.sub(r", (metadata|frontend_attributes)=\{.*?\}+", "", body)
        bodies[name] = numbered(body)
    return [
        bodies.get(name, name)
        for name in re.findall(r" fusion\(.*?calls=%([\w.\-]+)", text)
    ]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(tyro.cli(Config, prog="python -m benchmarks.gpu_program"))
