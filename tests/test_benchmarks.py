"""The benchmarks' harness: turns, ratios, files; and that the twins are twins."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import (
    augment,
    data,
    inference,
    ops,
    program,
    results,
    train_step,
    upscale,
)
from benchmarks import compile as compile_times
from benchmarks.nets import GPU_BATCH, NETS
from benchmarks.pair import Comparison, Pair, Plan, Task, Timing, Worker, WorkerError
from benchmarks.program import Job, Machine, Options, Table, measure
from jaxvision import models

ROOT = Path(__file__).parents[1]
CPU = Machine("CPU somebody's, 2 cores", peak=1e11, bandwidth=1e10)
GPU = Machine("NVIDIA H100", peak=1e15, bandwidth=3e12)
PLAN = Plan(pairs=2, seconds=0.02)


def case(function, /, **arguments):
    return Task(f"tests.benchmark_cases:{function}", arguments)


def is_stopped(stat):
    return stat.read_text().rpartition(")")[2].split()[0] == "T"


def wait_until(condition, *, limit=60):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_row_has_medians_and_the_range_of_neighbours_ratios():
    ours = [Timing(0.002, 0.004), Timing(0.004, 0.004), Timing(0.009, 0.004)]
    peer = [Timing(0.001, 0.002), Timing(0.004, 0.004), Timing(0.003, 0.008)]
    row = Comparison(ours, peer).row()
    assert (row["ours_ms"], row["peer_ms"]) == pytest.approx((4, 3))
    found = row["ratio"], row["ratio_low"], row["ratio_high"], row["cpu_ratio"]
    assert found == pytest.approx((2, 1, 3, 1))
    assert row["pairs"] == 3


def test_sides_take_turns_and_stand_still_between(tmp_path):
    path = tmp_path / "turns"
    ours, peer = (
        case("sleeping", seconds=seconds, name=name, path=str(path))
        for name, seconds in (("ours", 0.001), ("peer", 0.03))
    )
    with Pair({}) as pair:
        found = pair.compare(ours, peer, plan=PLAN)
        pids = [facts["pid"] for facts in (found.ours_facts, found.peer_facts)]
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        if states[0].exists():  # stopped, so that no thread of theirs can spin
            wait_until(lambda: all(map(is_stopped, states)))
    assert len({*pids, os.getpid()}) == 3
    assert not any(path.exists() for path in states)
    # The first turn of each finds out how many calls are a turn.
    turns = [name for name, _ in itertools.groupby(path.read_text().split())]
    assert turns == ["ours", "peer"] * 3
    assert len(found.ours) == len(found.peer) == PLAN.pairs
    assert all(timing.wall >= 0.001 for timing in found.ours)
    assert all(timing.wall >= 0.03 for timing in found.peer)


def test_a_slow_first_call_does_not_shorten_the_turns(tmp_path):
    path = tmp_path / "calls"
    with Pair({}) as pair:
        warming = case("warming", path=str(path))
        plan = Plan(pairs=1, seconds=0.2)
        pair.compare(warming, case("sleeping", seconds=0.1), plan=plan)
    # By its 0.3 s alone a turn would be a single call.
    assert max(map(int, path.read_text().split())) > 1


def test_cpu_time_is_that_of_the_side_itself():
    with Pair({}) as pair:
        busy, idle = case("working", seconds=0.02), case("sleeping", seconds=0.02)
        row = pair.compare(busy, idle, plan=PLAN).row()
    assert row["ours_cpu_ms"] == pytest.approx(20, rel=0.3)
    assert row["cpu_ratio"] > 5


def test_a_failure_is_one_line_that_names_the_side():
    with Pair({}) as pair:
        fine = case("sleeping", seconds=0.001)
        with pytest.raises(WorkerError, match="^peer: ValueError: no such thing$"):
            pair.compare(fine, case("failing"), plan=PLAN)
        with pytest.raises(WorkerError, match="^ours: the process ended by SIGABRT"):
            pair.compare(case("dying", calls=1), fine, plan=PLAN)
        # Another process takes the place of the dead one.
        assert pair.compare(fine, fine, plan=PLAN).row()["ratio"] > 0


def test_worker_without_an_answer_is_ended(monkeypatch):
    monkeypatch.setattr("benchmarks.pair.BLOCK_LIMIT", 0.2)
    worker = Worker({})
    pid = worker.prepare(case("sleeping", seconds=60))["pid"]
    with pytest.raises(WorkerError, match="no answer in 0 s"):
        worker.measure(1)
    assert not Path(f"/proc/{pid}").exists()


def rows(**fields):
    numbers = Comparison([Timing(0.3, 0.3)], [Timing(0.2, 0.2)]).row()
    return [{"net": "a", "peer": "PyTorch", "batch": 4, **numbers, **fields}]


def test_partial_run_replaces_its_rows_alone(tmp_path):
    old = rows() + rows(net="b") + rows(net="c")
    results.write(tmp_path, "train_step", CPU.device, old)
    new = rows(net="b", ratio=0.5) + rows(net="b", batch=8)
    path = results.write(tmp_path, "train_step", CPU.device, new)
    assert path.name == "train_step-cpu-somebody-s-2-cores.json"
    found = json.loads(path.read_text())["rows"]
    assert found == [old[0], new[0], old[2], new[1]]


def test_broken_file_is_named(tmp_path):
    path = results.write(tmp_path, "ops", CPU.device, rows())
    path.write_text("[]")
    with pytest.raises(ValueError, match=f"{path.name} holds no rows"):
        results.write(tmp_path, "ops", CPU.device, rows())


def test_table_has_a_line_a_row_and_no_empty_column():
    text = results.markdown(
        "ops",
        "a CPU",
        [
            *rows(must=1.1, versions={"jax": "1"}, malloc="keep"),
            {"net": "b", "peer": "PyTorch", "problem": "peer: a | b"},
        ],
    )
    assert "| net | batch | peer | ours ms | peer ms | ratio | range | CPU" in text
    line = "| a | 4 | PyTorch | 300 | 200 | **1.50** | 1.50 to 1.50 | 1.5 | 1.1 |"
    assert line in text
    assert "| b |  | PyTorch |  |  | peer: a / b |" in text
    assert "jax 1; malloc keep" in text


def test_bound_is_the_larger_of_arithmetic_and_memory():
    row = {"ours_ms": 100.0, "flops": 10**9, "bytes": 5 * 10**8}
    found = results.with_bound(row, peak=1e11, bandwidth=1e10)
    assert (found["bound_ms"], found["bound_by"]) == (50, "bytes")
    assert found["bound_share"] == 0.5
    found = results.with_bound(row | {"bytes": None}, peak=1e11, bandwidth=1e10)
    assert (found["bound_ms"], found["bound_by"]) == (10, "flops")
    # What fits into the cache is not held to the speed of a copy.
    found = results.with_bound(row, peak=1e11, bandwidth=1e10, cache=5 * 10**8)
    assert found["bound_by"] == "flops"
    assert results.with_bound({"net": "a"}, peak=1.0, bandwidth=1.0) == {"net": "a"}


def test_results_claim_no_more_than_the_bound():
    for path in results.FOLDER.glob("*.json"):
        for row in results.read(path):
            assert row.get("bound_share", 0) <= 1, (path.name, row["net"])


@pytest.mark.torch
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {}),
        (3, {"padding": (1, 2), "stride": (2, 1)}),
        (6, {"padding": 2, "dilation": 2}),
    ],
)
def test_flops_are_those_of_a_convolution_of_ones(groups, options, trained):
    """Each output is then the number of its multiply-adds."""
    torch = pytest.importorskip("torch")
    from benchmarks import flops

    x = torch.ones(2, 6, 7, 5, requires_grad=trained)
    w = torch.ones(12, 6 // groups, 3, 3, requires_grad=True)
    with flops.counter() as counter:
        out = torch.nn.functional.conv2d(x, w, groups=groups, **options).sum()
        out.backward()
    passes = 3 if trained else 2
    assert counter.get_total_flops() == passes * 2 * int(out.item())


@pytest.mark.parametrize("quick", [False, True])
def test_run_writes_its_rows_unless_it_is_quick(quick, tmp_path, capsys):
    options = Options(pairs=1, seconds=0, quick=quick, output=tmp_path)
    table = Table("ops", options, CPU)
    fields = {"net": "a", "peer": "b"}
    fine, bad = case("sleeping", seconds=0.001), case("failing")
    group = [Job(fields, fine, fine, images=2), Job(fields | {"net": "c"}, fine, bad)]
    measure(table, [group], options, backend="jax")
    printed = capsys.readouterr().out.splitlines()[1:]
    assert len(printed) == 2 and printed[1] == (
        "c jax beside b: peer: ValueError: no such thing"
    )
    assert bool(list(tmp_path.iterdir())) is not quick
    row, failed = table.rows
    assert row["images_per_second"] == pytest.approx(2e3 / row["ours_ms"])
    assert row["backend"] == "jax" and row["malloc"] == "keep"
    assert row["versions"]["jax"] and "ratio" not in failed


def test_unknown_name_is_an_error_that_lists_the_names():
    assert Options(only=("b",)).chosen("abc") == ["b"]
    assert Options().chosen("abc") == ["a", "b", "c"]
    with pytest.raises(ValueError, match="--only z: use some of a b"):
        Options(only=("z", "a")).chosen("ab")


def test_training_steps_are_held_to_the_limits_on_a_cpu_alone():
    every = ("eager", "compile", "loop")
    config = train_step.Config(peers=every, backend="jax")
    net, loop = train_step.jobs(config, ["vgg16"], CPU)
    assert [job.fields.get("must") for job in (*net, *loop)] == [2.2, None, 1.2]
    # The loop has processes of its own: none that PyTorch has been in.
    assert loop[0].ours.function == loop[0].peer.function
    ((job,),) = train_step.jobs(train_step.Config(dtype="bfloat16"), ["vgg16"], GPU)
    assert job.images == job.ours.arguments["batch"] == GPU_BATCH
    assert job.peer.arguments["dtype"] == "bfloat16" and "must" not in job.fields


def test_rows_of_one_program_differ_in_their_keys():
    every = Options()
    found = {
        "train_step": train_step.jobs(
            train_step.Config(peers=("eager", "compile", "loop")), list(NETS), CPU
        ),
        "inference": inference.jobs(inference.Config(), list(NETS), CPU),
        "augment": augment.jobs(augment.Config(), list(augment.PEERS)),
        "upscale": upscale.jobs(upscale.Config(), list(upscale.NETS)),
        "data": data.jobs(Path("photos"), list(data.PEERS), count=4),
        "ops": [list(ops.jobs([*ops.CONVOLUTIONS, *ops.OTHERS], quick=False))],
    }
    for name, groups in found.items():
        keys = [results.key(job.fields) for group in groups for job in group]
        assert len(set(keys)) == len(keys) > 1, name
    assert compile_times.Config().options == every


def test_every_net_is_one_of_ours():
    for name, net in NETS.items():
        assert models.variant(name)
        assert 0 < net.aim <= net.must <= net.fallback


@pytest.mark.torch
def test_twins_hold_the_same_tensors():
    """`convert` takes each tensor exactly once and compares the shapes."""
    pytest.importorskip("torch")
    from benchmarks import twins
    from converters import convert

    for net in (*twins.SMALL, *twins.LIGHT, "srcnn_955", "srcnn_915"):
        state = twins.create(net).state_dict()
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        convert(models.abstract(net, num_classes=10), arrays)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("net", ["fcn", "cnn", "cnn_fast", "srcnn_915", "light_x2"])
def test_twins_compute_the_same(net, float64):
    torch = pytest.importorskip("torch")
    import numpy as np

    from benchmarks import twins
    from converters import convert
    from jaxvision.functional import functionalize

    twin = twins.create(net).double().eval()
    arrays = {name: x.numpy() for name, x in twin.state_dict().items()}
    apply, params, stats = functionalize(
        convert(models.abstract(net, num_classes=10), arrays)
    )
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = np.asarray(apply(params, stats, images)[0])
    if ours.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.std())


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize(
    "arguments",
    [
        ("train_step", "--only", "fcn", "srcnn", "--peers", "eager", "loop"),
        ("inference", "--only", "fcn"),
        ("augment",),
        ("upscale", "--only", "light_x3"),
        ("data", "--only", "pillow"),
        ("compile", "--only", "fcn"),
        ("ops", "--only", "grouped", "2x2 max pool", "BatchNorm and ReLU"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_programs_run(arguments):
    pytest.importorskip("torch")
    program_name, *rest = arguments
    command = [sys.executable, "-m", f"benchmarks.{program_name}", "--quick", *rest]
    before = sorted(results.FOLDER.iterdir())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) > 1 and all(", ratio " in line for line in lines[1:]), lines
    assert sorted(results.FOLDER.iterdir()) == before


def test_command_line_errors_are_one_line():
    command = [sys.executable, "-m", "benchmarks.ops", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --only nothing: use some of 3x3")
    assert len(done.stderr.splitlines()) == 1


def test_environment_is_the_same_for_both_and_can_be_left_alone():
    found = program.variables(Options(malloc="default", waiting="default"), backend="x")
    assert not [name for name in found if name.startswith(("MALLOC", "OMP_WAIT"))]
    assert found["JAXVISION_CONV"] == "x"
    found = program.variables(Options(), backend="x")
    assert found["OMP_WAIT_POLICY"] == "PASSIVE" and "MALLOC_MMAP_MAX_" in found
