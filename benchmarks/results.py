"""Rows of measurements as JSON and as a Markdown table, under benchmarks/results."""

import json
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.worker import cores
from jaxvision.files import write_text

Row = dict[str, Any]

FOLDER = Path(__file__).parent / "results"
KEY = ("net", "peer", "case", "batch", "size", "dtype", "backend", "malloc", "waiting")
"""The fields that say what a row is about; a new measurement replaces the old one."""
PACKAGES = (
    *("jax", "jaxlib", "flax", "onednn-cpu-gomp", "torch", "torchvision"),
    *("pillow", "simplejpeg", "opencv-python-headless"),
)
COLUMNS = {
    "net": "net",
    "case": "case",
    "batch": "batch",
    "size": "px",
    "dtype": "type",
    "backend": "back end",
    "peer": "peer",
    "ours_ms": "ours ms",
    "peer_ms": "peer ms",
    "ratio": "ratio",
    "ratio_range": "range",
    "cpu_ratio": "CPU ratio",
    "images_per_second": "images/s",
    "ours_mib": "ours MiB",
    "peer_mib": "peer MiB",
    "bound_ms": "bound ms",
    "bound_share": "of bound",
    "must": "must",
    "aim": "aim",
}
"""Field and heading of the table, in order; a column that no row fills is left out."""
LEGEND = (
    "ratio: ours / peer by the clock, the median over neighbouring turns, and its "
    "range; CPU ratio: that of the CPU time of all threads; bound: the least time that "
    "the FLOPs, those with the padding's noughts left out, would take at the speed of "
    "a large matrix product or of a convolution that suits the machine, the faster of "
    "them, or the bytes, where they are more than the last cache, at that of a copy; "
    "of bound: its share of our time."
)


def key(row: Row) -> tuple[Any, ...]:
    """What the row is about."""
    return tuple(row.get(name) for name in KEY)


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """The old rows, each where it stood, with the new ones in place or at the end."""
    rows = {key(row): row for row in old}
    rows.update({key(row): row for row in new})
    return list(rows.values())


def with_bound(row: Row, *, peak: float, bandwidth: float, cache: int = 0) -> Row:
    """The row with its bound, where it says its `flops` or its `bytes`.

    Args:
      row: a measurement.
      peak: FLOPs a second, at best.
      bandwidth: bytes a second of a copy, read and written ones together.
      cache: bytes of the last cache; so few, call after call, never leave it.
    """
    bounds = {
        name: 1e3 * row[name] / rate
        for name, rate, free in (("flops", peak, 0), ("bytes", bandwidth, cache))
        if (row.get(name) or 0) > free
    }
    if not bounds:
        return row
    by = max(bounds, key=lambda name: bounds[name])
    row = row | {"bound_ms": bounds[by], "bound_by": by}
    if row.get("ours_ms"):
        row["bound_share"] = bounds[by] / row["ours_ms"]
    return row


def read(path: Path) -> list[Row]:
    """The rows of a JSON file; none where there is no file.

    Raises:
      ValueError: the file is not what `write` wrote.
    """
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no rows ({error}); delete it") from error


def write(folder: Path, name: str, device: str, rows: list[Row]) -> Path:
    """Merges `rows` into `NAME-DEVICE.json`, and writes the table beside it.

    Returns:
      The path of the JSON file.
    """
    path = folder / f"{name}-{slug(device)}.json"
    rows = merge(read(path), rows)
    content = {"benchmark": name, "device": device, "rows": rows}
    write_text(path, json.dumps(content, indent=1) + "\n")
    write_text(path.with_suffix(".md"), markdown(name, device, rows))
    return path


def slug(text: str) -> str:
    """The text in lower case, with hyphens for all but letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def markdown(name: str, device: str, rows: list[Row]) -> str:
    """The table, with what one needs to know to read it."""
    cells = [_cells(row) for row in rows]
    columns = [name for name in COLUMNS if any(cell.get(name) for cell in cells)]
    lines = [
        f"# {name}: {device}",
        "",
        "| " + " | ".join(COLUMNS[name] for name in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
    ]
    lines += [
        "| " + " | ".join(cell.get(name, "") for name in columns) + " |"
        for cell in cells
    ]
    lines += ["", LEGEND, ""]
    lines += [f"- {line}" for line in dict.fromkeys(map(_origin, rows))]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> dict[str, str]:
    """What stands in the row's cells; a failure stands where the ratio would."""
    cells = {name: _spelled(row[name]) for name in COLUMNS if row.get(name) is not None}
    if "problem" in row:
        cells["ratio"] = row["problem"].replace("|", "/")
    elif "ratio_low" in row:
        low, high = row["ratio_low"], row["ratio_high"]
        cells["ratio"] = f"**{row['ratio']:.2f}**"
        cells["ratio_range"] = f"{low:.2f} to {high:.2f}"
    if "bound_share" in row:
        cells["bound_share"] = f"{row['bound_share']:.0%}"
        cells["bound_ms"] += f" ({row['bound_by']})"
    return cells


def _spelled(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _origin(row: Row) -> str:
    """When, with what and how a row was measured."""
    versions = ", ".join(f"{k} {v}" for k, v in row.get("versions", {}).items())
    how = f"malloc {row.get('malloc')}, waiting threads {row.get('waiting')}"
    return f"{row.get('date')}, {row.get('git')}: {versions}; {how}"


def origin() -> Row:
    """The date, the git revision and the versions of what is compared."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return {"date": time.strftime("%Y-%m-%d"), "git": _revision(), "versions": found}


def _revision() -> str:
    command = ["git", "-C", str(FOLDER.parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "not a git checkout"
    return done.stdout.strip() or "not a git checkout"


def cache_bytes() -> int:
    """The last cache of the CPU; 0 where the system does not say."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [path.read_text().strip() for path in folder.glob("index*/size")]
    return max((1024 * int(size.removesuffix("K")) for size in sizes), default=0)


def processor() -> str:
    """The CPU's name, and how many of its cores this process may use."""
    name = platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = re.findall(r"^model name\s*: (.+)$", text, re.MULTILINE)[0].strip()
    except (OSError, IndexError):
        pass
    return f"CPU {name}, {cores()} cores"
