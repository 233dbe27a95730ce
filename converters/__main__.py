"""python -m converters list | fetch NAME | verify NAME | export RUN | convert FILE."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

try:
    import tyro
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn
    from rich.table import Table
    from tyro.conf import OmitArgPrefixes, Positional, subcommand
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    cure = "pip install 'jaxvision[app]' (in a checkout: -e '.[app]')"
    print(f"error: {error.name} not installed: {cure}", file=sys.stderr)
    sys.exit(2)
import numpy as np
from safetensors.numpy import save_file

from converters import cache, download, verify, weights
from converters.bundle import load_bundle
from converters.from_torch import without_optional
from converters.to_torch import to_state_dict, torch_call
from converters.torch_file import write_torch
from jaxvision import models
from jaxvision.compilation import check_device
from jaxvision.download import DownloadError
from jaxvision.files import at_home, atomic_path, write_text
from jaxvision.functional import functionalize
from jaxvision.text import printable, speak_plainly


@dataclass(frozen=True)
class List:
    """The ImageNet weights that torchvision publishes, and which of them are here."""


@dataclass(frozen=True)
class Fetch:
    """Fetches, checks and converts ImageNet weights.

    Files that are on this machine already are taken from the folder, or the URL, in
    JAXVISION_WEIGHTS_URL. What a broken download left is where the next one goes on.
    """

    name: Positional[str]
    """torchvision's name or an alias."""
    weights: str = "imagenet"
    """imagenet (torchvision's default), v1, v2 or features."""


@dataclass(frozen=True)
class Verify:
    """Compares a backbone with torchvision: layers, gradients, three training steps."""

    name: Positional[str]
    """torchvision's name, an alias, or all."""
    weights: Path | None = None
    """A .pth or .safetensors file; without it the weights are random."""
    size: int | None = None
    """Side of the images in pixels; by default the smallest, 64 and 65, and 224 for the
    seven backbones of transfer learning."""
    dtype: Literal["float32", "float64"] = "float64"
    """Type of all arithmetic."""


@dataclass(frozen=True)
class Export:
    """Writes a run's model, or ImageNet weights, for torchvision."""

    source: Positional[str]
    """A run folder, a model.safetensors, or the name of a backbone."""
    to: Path
    """The file to write, .pth or .safetensors."""


@dataclass(frozen=True)
class Convert:
    """Writes the weights in any checkpoint anew: float32, under torchvision's names."""

    source: Positional[str]
    """A file of torch.save or a .safetensors; FILE:KEY if it holds several models."""
    to: Path
    """The file to write, .pth or .safetensors."""


MARKS = ("<!-- parity: python -m converters verify all -->", "<!-- end of parity -->")

Command = OmitArgPrefixes[
    Annotated[List, subcommand("list")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Convert, subcommand("convert")]
]


def list_weights(_: List) -> None:
    """Prints the table of weights."""
    table = Table(box=None, header_style="bold")
    for name in ("model", "weights", "top-1 %", "parameters", "MiB", "here"):
        table.add_column(name, justify="right" if "%" in name else "left")
    for row in weights.TABLE:
        # A look alone: the hash of gigabytes is for when a file is used.
        converted = Path(row.file).with_suffix(".safetensors")
        here = any(
            (folder / name).is_file()
            for folder in cache.folders()
            for name in (row.file, converted)
        )
        table.add_row(
            row.model,
            row.version + ("*" if weights.find(row.model) is row else ""),
            f"{row.acc1:.3f}",
            f"{row.params:,}",
            f"{row.mib:.1f}",
            "yes" if here else "",
        )
    Console().print(table)
    print("* what `imagenet` means")


def fetch(command: Fetch) -> None:
    """Fetches and converts one set of weights."""
    name = models.variant(command.name).name
    columns = (
        *Progress.get_default_columns(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(name, total=None)
        _, row = download.imagenet_state_dict(
            name,
            which=command.weights,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    path = printable(str(cache.cached_params_path(row)))
    digest = download.source_sha256(row)
    known = "as published" if row.sha256 else "as first seen here"
    print(f"{row.file}: converted, {path}; SHA-256 {digest}, {known}")


def export(command: Export) -> None:
    """Writes tensors with torchvision's names and layouts."""
    _check_target(command.to)
    check_device()
    path = Path(os.path.expanduser(command.source))
    path = path / "model.safetensors" if path.is_dir() else path
    if path.is_file():
        bundle = load_bundle(path)
        call = torch_call(bundle.name, num_classes=len(bundle.classes))
        _, params, stats = functionalize(bundle.model)
        arrays = to_state_dict(bundle.model, params, stats)
    elif path.name == "model.safetensors" or len(path.parts) > 1:
        raise ValueError(f"{path} does not exist: name a run folder that has a model")
    else:
        name = models.variant(command.source).name
        arrays, _ = download.imagenet_state_dict(name)
        # Such as the network that the call builds has.
        arrays = without_optional(models.abstract(name), arrays)
        call = torch_call(name, num_classes=1000)
    _write(command.to, arrays, note=call and f" for {call}")


def convert(command: Convert) -> None:
    """Reads a checkpoint and writes its tensors alone."""
    _check_target(command.to)
    _write(command.to, weights.load_state_dict(os.path.expanduser(command.source)))


def _check_target(path: Path) -> None:
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"--to {path}: a .pth or a .safetensors file is written")


def _write(path: Path, arrays: dict[str, np.ndarray], *, note: str = "") -> None:
    if path.suffix == ".pth":
        write_torch(path, arrays)
    else:
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={"format": "pt"})
    print(f"{printable(str(path))}: {len(arrays)} tensors{note}")


def run_verify(command: Verify) -> None:
    """Prints the comparison; ends the process with 1 where a bound is broken."""
    check_device()
    everything = command.name == "all"
    found = []
    for name in models.names() if everything else [command.name]:
        one = verify.run(
            name, weights=command.weights, size=command.size, dtype=command.dtype
        )
        found.append(one)
        if not everything:
            print(verify.layer_table(one))
        print(_summary(one), flush=True)
    if command == Verify("all"):  # the README speaks of the defaults alone
        _update_readme(Path("README.md"), verify.table(found))
    elif everything:
        print(verify.table(found))
    faults = [fault for one in found for fault in one.faults]
    if faults:
        raise BoundError("; ".join(faults))


def _summary(one: verify.Verification) -> str:
    sizes = ", ".join(f"{value:.1e} at {size} px" for size, value in one.logits.items())
    return (
        f"{one.name}, {one.dtype}, {one.weights} weights: logits {sizes}; gradients "
        f"{one.gradients.difference:.1e}; after three steps loss "
        f"{one.loss.difference:.1e}, parameters {one.parameters.difference:.1e}, "
        f"statistics {one.statistics.difference:.1e}"
    )


class BoundError(Exception):
    """A model differs from torchvision's by more than the design allows."""


def _update_readme(path: Path, table: str) -> None:
    """Puts the table between the marks of a README, where there is one."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if begin and end:
        write_text(path, f"{before}{begin}\n{table}\n{end}{after}")
        print(f"the table in {path} is written anew")
    else:
        print(table)


ACTIONS = {
    List: list_weights,
    Fetch: fetch,
    Verify: run_verify,
    Export: export,
    Convert: convert,
}


def main(*, argv: list[str] | None = None) -> None:
    """Runs one command; a wrong call exits with 2, a failed one with 1, in one line."""
    speak_plainly()
    command = at_home(tyro.cli(Command, prog="python -m converters", args=argv))
    try:
        ACTIONS[type(command)](command)
    except ValueError as error:
        sys.exit(_fail(error, 2))
    except (BoundError, DownloadError, ModuleNotFoundError, OSError) as error:
        sys.exit(_fail(error, 1))


def _fail(error: Exception, code: int) -> int:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
