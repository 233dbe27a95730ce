"""The training step at many sizes, with the extension and without, beside PyTorch's.

    python -m benchmarks.sizes
    python -m benchmarks.sizes --only resnet18 --sizes 32 64 --batches 1 32
    python -m benchmarks.sizes --table

Three processes take turns: ours with oneDNN, PyTorch, ours by the rules in JAX; PyTorch
is measured once for both. Each row is written as it comes, among those of
`benchmarks.train_step`, and what the file has is not measured again: a run that was
interrupted goes on with the same command. `--table` measures nothing and prints a
table of what the file has.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from benchmarks import results, train_step
from benchmarks.nets import NETS
from benchmarks.pair import (
    Comparison,
    Side,
    Task,
    Worker,
    WorkerError,
    take_turns,
)
from benchmarks.program import Options, Table, look_at_machine, run, variables
from benchmarks.results import Row

NAME = "train_step"
"""The table that the rows are of."""
LATE = "not done in"
Shape = tuple[int, int]
"""Images a step, and their side in pixels."""


@dataclass(frozen=True)
class Config:
    """Times training steps of many sizes with both back ends beside PyTorch's."""

    backends: tuple[Literal["onednn", "jax"], ...] = ("onednn", "jax")
    """Our convolutions: with the extension, and the rules that serve without it."""
    sizes: tuple[int, ...] = (32, 64, 96, 160, 224)
    """Pixels a side of ImageNet's nets; the others have one size."""
    batches: tuple[int, ...] = (1, 4, 32, 128)
    """Images a step."""
    pixels: int = 32 * 224**2
    """What has more in a batch is left out, for its time and its memory."""
    limit: float = 150.0
    """Seconds for a shape, all sides together; what takes longer says so in its rows,
    and nothing larger is tried of that net."""
    again: bool = False
    """Measure also what the file has."""
    table: bool = False
    """Measure nothing; print the table of the rows that there are."""
    options: Annotated[Options, tyro.conf.arg(name="")] = Options()


def main(config: Config) -> None:
    """Measures what the file lacks, or prints its table.

    Raises:
      ValueError: `--only` names no net.
    """
    options = config.options
    names = options.chosen(NETS)
    if config.table:
        path = _path(config, results.processor())
        print(markdown(results.read(path), config, names))
        return
    machine = look_at_machine(options)
    table = Table(NAME, options, machine)
    known = [] if config.again else results.read(_path(config, machine.device))
    for name in names:
        shapes = _shapes(config, name)
        lacking = [shape for shape in shapes if _lacking(known, config, name, shape)]
        print(f"{name}: {len(lacking)} of {len(shapes)} shapes to measure", flush=True)
        with _workers(config) as workers:
            late = [
                (row["batch"], row["size"])
                for row in known
                if row["net"] == name and LATE in row.get("problem", "")
            ]
            for shape in lacking:
                if any(shape[0] >= b and shape[1] >= px for b, px in late):
                    print(f"{name}, {shape}: left out, a smaller one took too long")
                    continue
                begun = time.monotonic()
                for row in _rows(config, workers, name, shape):
                    table.add(row)
                if time.monotonic() - begun > config.limit:
                    late.append(shape)
    table.close()


def _path(config: Config, device: str):
    return config.options.output / f"{NAME}-{results.slug(device)}.json"


def _shapes(config: Config, name: str) -> list[Shape]:
    """What is measured of a net, the least work first."""
    if config.options.quick:
        return [(2, 64 if NETS[name].size == 224 else 32)]
    sizes = config.sizes if NETS[name].size == 224 else (NETS[name].size,)
    shapes = [(batch, size) for size in sizes for batch in config.batches]
    fitting = [shape for shape in shapes if shape[0] * shape[1] ** 2 <= config.pixels]
    return sorted(fitting, key=lambda shape: (shape[0] * shape[1] ** 2, shape))


def _about(config: Config, name: str, shape: Shape, backend: str) -> Row:
    """What a row is about."""
    net, (batch, size) = NETS[name], shape
    row: Row = {"net": name, "batch": batch, "size": size, "dtype": "float32"}
    row |= {"peer": train_step.PEERS["eager"], "case": "step", "backend": backend}
    own = shape == (net.batch, net.size)
    return row | (net.limits(backend) if own else train_step.OTHERWISE.get(backend, {}))


def _lacking(known: list[Row], config: Config, name: str, shape: Shape) -> bool:
    """Whether one of the shape's rows is not there; failures are."""
    how = {"malloc": config.options.malloc, "waiting": config.options.waiting}
    there = {results.key(row) for row in known}
    return any(
        results.key(_about(config, name, shape, backend) | how) not in there
        for backend in config.backends
    )


@contextmanager
def _workers(config: Config) -> Iterator[dict[str, Worker]]:
    """A process for each back end, and PyTorch's under the name `peer`."""
    names = (*config.backends, "peer")
    workers = {
        name: Worker(
            variables(config.options, backend="auto" if name == "peer" else name)
        )
        for name in names
    }
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.close()


def _rows(
    config: Config, workers: dict[str, Worker], name: str, shape: Shape
) -> Iterator[Row]:
    """The shape's rows, one a back end.

    A side that cannot be prepared costs its row alone; one that fails or comes too late
    in its turns, or PyTorch, all of them.
    """
    batch, size = shape
    case = {"net": name, "batch": batch, "size": size, "dtype": "float32"}
    ours = Task("benchmarks.ours:train_step", {**case, "loop": False})
    theirs = Task("benchmarks.peers:train_step", {**case, "mode": None})
    plan = replace(config.options.plan, limit=config.limit / 8)
    end = time.monotonic() + config.limit
    sides, problems = [], {}
    for side in ("peer", *config.backends):
        worker, task = workers[side], theirs if side == "peer" else ours
        try:
            worker.prepare(task, end=end)
            sides.append(Side(side, worker, task))
        except WorkerError as error:
            problems[side] = _why(f"{side}: {error}", config, end)
    try:
        if "peer" in problems:
            raise WorkerError(problems["peer"])
        # PyTorch after the first, so that each of ours is its neighbour.
        sides.insert(1, sides.pop(0))
        found = dict(
            zip(
                [side.name for side in sides],
                take_turns(sides, plan=plan, end=end),
                strict=True,
            )
        )
    except WorkerError as error:
        why = _why(str(error), config, end)
        found, problems = {}, dict.fromkeys(config.backends, why) | problems
    for backend in config.backends:
        row = _about(config, name, shape, backend)
        if backend in problems:
            yield row | {"problem": problems[backend]}
            continue
        (mine, my_facts), (other, facts) = found[backend], found["peer"]
        row |= Comparison(mine, other, my_facts, facts).row()
        row |= {key: facts[key] for key in ("flops",) if key in facts}
        yield row | {"images_per_second": 1e3 * batch / row["ours_ms"]}


def _why(said: str, config: Config, end: float) -> str:
    """What failed, or that it took too long."""
    if time.monotonic() < end:
        return said
    return f"{said.partition(':')[0]}: {LATE} {config.limit:.0f} s"


def markdown(rows: Sequence[Row], config: Config, names: Sequence[str]) -> str:
    """The table: a line for each net and size, a column for each batch.

    A cell has the ratios to PyTorch with the extension and without; `-` is not measured
    or not measurable.
    """
    ratios = {
        (row["net"], row["size"], row["batch"], row["backend"]): row.get("ratio")
        for row in rows
        if row.get("case") == "step"
        and row.get("peer") == train_step.PEERS["eager"]
        and row.get("dtype") == "float32"
    }

    def cell(*about) -> str:
        found = [ratios.get((*about, backend)) for backend in config.backends]
        if not any(found):
            return "-"
        return " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in found)

    lines = [
        f"| net | px | {' | '.join(f'batch {batch}' for batch in config.batches)} |",
        f"| --- | ---: |{' ---: |' * len(config.batches)}",
    ]
    for name in names:
        imagenet = NETS[name].size == 224
        for size in config.sizes if imagenet else (NETS[name].size,):
            cells = [cell(name, size, batch) for batch in config.batches]
            if any(text != "-" for text in cells):
                lines.append(f"| {name} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(Config, main, prog="python -m benchmarks.sizes")
