"""The few minutes on a GPU: what goes first, what is left out, and profiles."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu, gpu_program, results, trace
from benchmarks.nets import NETS
from benchmarks.program import Machine, Options, Table
from benchmarks.train_step import MODES

ROOT = Path(__file__).parents[1]


def named(thread, name):
    return {"ph": "M", "pid": 1, "tid": thread, "name": "thread_name"} | {
        "args": {"name": name}
    }


def event(thread, begin, length, operation, kernel=""):
    times = {"ph": "X", "pid": 1, "tid": thread, "ts": begin, "dur": length}
    return times | {"name": kernel or operation, "args": {"hlo_op": operation}}


def test_profile_of_a_gpu_counts_its_streams_alone():
    events = [
        named(7, "Stream #13(Compute)"),
        named(8, "XLA Ops"),
        event(7, 0, 40, "custom-call.3", "sm90_xmma_fprop_implicit_gemm"),
        event(8, 0, 40, "custom-call.3"),
        event(7, 50, 10, "input_reduce_fusion.2"),
        event(7, 60, 5, "loop_add_fusion"),
        event(7, 66, 4, "copy.9", "MemcpyD2D"),
        event(7, 66, 1, "rng-bit-generator"),
        event(7, 0, 99, "while.4"),
        {"ph": "X", "pid": 1, "tid": 7, "ts": 0, "dur": 9, "name": "no operation"},
    ]
    assert trace.by_category(events) == {
        "convolutions and products": 40,
        "fusions with a reduction": 10,
        "copies": 4,
        "other fusions": 5,
        "all else": 1,
        "gaps": 10 + 1,
    }
    assert set(trace.by_category([]).values()) == {0}


def test_profile_of_a_program_here_is_what_it_was_busy_with():
    a = jnp.ones((300, 300))
    product = jax.jit(lambda a: a @ a)
    product(a)

    def run(calls):
        for _ in range(calls):
            product(a).block_until_ready()

    begun = time.perf_counter()
    found = trace.profile(run, 3)
    assert 0 < sum(found.values()) < 1e3 * (time.perf_counter() - begun) / 3
    # Which category a product is of on a CPU is the compiler's to say.
    assert found["convolutions and products"] + found["other fusions"] > 0


def test_the_record_goes_first_and_every_part_is_known():
    assert gpu.PARTS[0].kind == "record"
    assert len(set(gpu.PARTS)) == len(gpu.PARTS)
    for part in gpu.PARTS[1:]:
        assert part.net in NETS and part.seconds > 0
        assert (part.kind == "step") == (part.peer in MODES)
    # What a default run has time for has the record and steps beside PyTorch.
    first = [part.kind for part in gpu.PARTS[:4]]
    assert sum(part.seconds for part in gpu.PARTS[:4]) < 360 - 30
    assert {"record", "step", "profile"} == set(first)


def test_time_that_is_over_ends_the_program_and_keeps_the_rows(tmp_path, capsys):
    machine = Machine("NVIDIA H100", peak=1e15, bandwidth=3e12)
    table = Table("gpu", Options(output=tmp_path), machine)
    row = {"net": "fcn", "backend": "xla", "peer": "PyTorch"}
    row |= {"ours_ms": 1.0, "peer_ms": 2.0, "ratio": 0.5}
    with pytest.raises(gpu.OutOfTimeError), gpu._alarm(time.monotonic() + 0.2):
        table.add(row)
        time.sleep(60)
    assert results.read(tmp_path / "gpu-nvidia-h100.json")[0]["ratio"] == 0.5
    # What cannot end in time is not begun.
    config = gpu.Config(data="x.npz", options=Options(output=tmp_path))
    soon = time.monotonic() + 50
    gpu._measure(gpu.PARTS[0], config, table, soon, tmp_path)
    said = capsys.readouterr().out
    assert "record cnn_fast: left out, it takes 100 s and " in said
    gpu._measure(gpu.PARTS[0], gpu.Config(), table, soon + 1e4, tmp_path)
    assert "record cnn_fast: left out, no --data" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.torch
def test_it_runs_in_small_and_writes_nothing():
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--minutes", "8"]
    before = sorted(results.FOLDER.iterdir())
    done = subprocess.run(
        [*command, "--only", "cnn_fast"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "cnn_fast --preset speed" in done.stdout and ", ratio " in done.stdout
    assert sorted(results.FOLDER.iterdir()) == before


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_compiled_peers_compute_what_eager_does(mode):
    torch = pytest.importorskip("torch")
    from benchmarks import peers

    model = peers._model("fcn").eval()
    images = peers._noise(2, 32)
    with torch.inference_mode():
        expected = peers._compiled(model, None)(images)
        found = peers._compiled(model, mode)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


PROGRAM = """
%fused (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0), metadata={op_name="one"}
  ROOT %b = f32[2]{0} add(%a, %a), metadata={op_name="two"}
}

%fused.1 (c: f32[2]) -> f32[2] {
  %c = f32[2]{0} parameter(0)
  ROOT %d = f32[2]{0} add(%c, %c)
}

ENTRY %main {
  %x = bf16[8,4,4,3]{3,2,1,0} parameter(0)
  %w = bf16[3,3,3,6]{3,2,1,0} parameter(1)
  %conv.1 = (bf16[8,4,4,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="one"}
  %conv.2 = (bf16[8,4,4,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="two"}
  %conv.3 = (bf16[8,2,2,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 stride=2x2}, dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convForward"
  %f = f32[2]{0} fusion(%y), kind=kLoop, calls=%fused
  ROOT %g = f32[2]{0} fusion(%f), kind=kLoop, calls=%fused.1
}
"""  # noqa: E501


def test_what_repeats_in_a_gpus_program_is_told_by_what_it_is():
    convolutions = gpu_program._convolutions(PROGRAM)
    assert len(convolutions) == 3 and len(set(convolutions)) == 2
    fusions = gpu_program._fusions(PROGRAM)
    assert len(fusions) == 2 and len(set(fusions)) == 1
