"""From a command line and a YAML file to a frozen dataclass, with one-line errors."""

import dataclasses
import inspect
import os
import signal
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments.command import machines
from experiments.command.console import Console
from experiments.command.limits import brief
from experiments.command.yaml_file import YamlError, read_yaml_file
from jaxvision import compilation, ops, processes
from jaxvision.checkpoint import CheckpointError
from jaxvision.data import decode
from jaxvision.files import at_home
from jaxvision.ops import onednn
from jaxvision.ops.build import build
from jaxvision.ops.convolution import VARIABLE
from jaxvision.stream import StreamError
from jaxvision.text import speak_plainly

Config = TypeVar("Config")
OF_A_START = ("resume", "config", "dry_run", *machines.HERE)
"""Options that say nothing of a run."""


class UsageError(ValueError):
    """The call is wrong: one line that says what to change. Exit code 2."""


class RunError(RuntimeError):
    """The run failed: one line that says why and what is kept. Exit code 1."""


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    presets: Mapping[str, dict[str, Any]] = types.MappingProxyType({}),
    preset_option: str = "preset",
) -> Config:
    """The configuration: defaults, then a preset, a file and the command line.

    The file is that of `--config FILE`, or `config.yaml` in the folder of `--resume`.
    The preset is the row of `presets` that `--PRESET_OPTION` or the file names.

    Raises:
      UsageError: the file is missing, or has an unknown key or a value of a wrong type;
        or there is no such preset.
      SystemExit: help was asked for, or the command line itself is wrong (exit code 2).
    """
    path = _path(argv, "--config")
    if path is None and (run := _path(argv, "--resume")) is not None:
        path = run / "config.yaml"
        if not path.is_file():
            raise UsageError(
                f"--resume {run}: there is no config.yaml, so it is no run"
            )
    values = {} if path is None else _read(path)
    preset = _option(argv, f"--{preset_option}") or values.get(preset_option)
    default = config_class()
    if preset is not None and presets:
        if not isinstance(preset, str) or preset not in presets:
            raise UsageError(
                f"--{preset_option}: unknown {preset_option} {brief(preset)}; use "
                f"{', '.join(presets)}"
            )
        where = f"--{preset_option} {preset}"
        default = _over(default, presets[preset], where=where)
    if path is not None:
        default = _over(default, values, where=str(path))
    description = inspect.cleandoc(config_class.__doc__ or "")
    try:
        config = tyro.cli(
            config_class, prog=prog, description=description, args=argv, default=default
        )
        return at_home(config)
    except ValueError as error:  # a limit that __post_init__ checks
        raise UsageError(str(error)) from error


def run_cli(
    config_class: type[Config],
    main: Callable[[Config], Any],
    *,
    prog: str,
    presets: Mapping[str, dict[str, Any]] = types.MappingProxyType({}),
    preset_option: str = "preset",
) -> None:
    """Parses `sys.argv`, calls `main`, turns errors into one line and an exit code."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # of experiments/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    speak_plainly()
    try:
        config = parse(
            config_class,
            sys.argv[1:],
            prog=prog,
            presets=presets,
            preset_option=preset_option,
        )
        _join(config)
        with machines.together(config):
            check_environment()
            check_alike(lambda: machines.what_runs() | _given(config))
            main(config)
    except (UsageError, RunError, CheckpointError, StreamError, OSError) as error:
        machines.end(f"error: {error}", code=2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        resumes = hasattr(config_class, "resume")
        hint = "; a run that was named goes on with --resume" if resumes else ""
        machines.end(f"interrupted{hint}", code=128 + signal.SIGINT)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        reason = str(error)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in reason:
            machines.end_by_fault()
            raise
        machines.end(
            f"error: memory ran out ({' '.join(reason.split())[:200]}): "
            "smaller images or smaller batches need less",
            code=1,
        )
    except Exception:
        machines.end_by_fault()
        raise


def _join(config: Any) -> None:
    try:
        machines.join(config)
    except ValueError as error:
        raise UsageError(f"--distributed: {error}") from error


def _given(config: Any) -> dict[str, str]:
    """The options as all processes must have them."""
    return {f"--{name}": str(value) for name, value in to_dict(config).items()}


def check_alike(facts: Callable[[], Mapping[str, str]]) -> None:
    """Raises UsageError where a process has something else than the first; all call it.

    Args:
      facts: gives what it is -> its value or digest; one process alone does not ask.
    """
    if processes.count() > 1 and (different := processes.differences(facts())):
        raise UsageError(f"the processes are not alike: {different}")


def check_environment() -> None:
    """Settings of the process, before JAX computes anything."""
    try:
        ops.keep_pages()
        compilation.check_device()
        compilation.use_cache()
        prepare_convolutions()
        ops.backend()
        decode.set_pixel_limit()
    except ValueError as error:
        raise UsageError(str(error)) from error


def prepare_convolutions() -> None:
    """Builds the CPU's extension once, or says what it lacks and what that costs."""
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in ("auto", "onednn") or jax.default_backend() != "cpu":
        return
    if jax.device_count() > 1 or not onednn.is_possible():
        return
    if fault := build() or onednn.problem():
        Console().say(
            "convolutions by rules in JAX, with which a training step takes 1.2 to 2.2 "
            f"times as long as with oneDNN: {fault}",
            style="yellow",
        )


def _path(argv: Sequence[str], name: str) -> Path | None:
    value = _option(argv, name)
    return None if value is None else Path(os.path.expanduser(value))


def _option(argv: Sequence[str], name: str) -> str | None:
    """The value of an option; the last one where it is given twice, as the parser."""
    found = None
    for index, word in enumerate(argv):
        if word == name:
            if index + 1 == len(argv):
                raise UsageError(f"{name} needs a value")
            found = argv[index + 1]
        if word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def read_yaml(config_class: type[Config], path: Path) -> Config:
    """The dataclass with the values of a YAML file, each checked by name and type.

    A run's own `config.yaml` is read too: what it says of the machine stands under
    `environment`, which is skipped.
    """
    return at_home(_over(config_class(), _read(path), where=str(path)))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml_file(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except YamlError as error:
        raise UsageError(f"{path} is not YAML of options: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__}, not options by name")
    values.pop("environment", None)
    return values


def check_resumed(config: Any, folder: Path, *, free: Sequence[str] = ()) -> None:
    """A run goes on with its own options; those given beside `--resume` must agree.

    Args:
      config: the options that were given.
      folder: the run's.
      free: those that may differ.

    Raises:
      UsageError: an option differs from that of the run in `folder`.
    """
    saved = to_dict(read_yaml(type(config), folder / "config.yaml"))
    given = to_dict(config)
    for name, value in saved.items():
        if given[name] != value and name not in (*OF_A_START, *free):
            raise UsageError(
                f"--resume goes on with {name} = {value} of {folder / 'config.yaml'}: "
                f"leave out the other value, {given[name]}, or start a new run"
            )


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain values that YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def _over(default: Any, values: dict, *, where: str, prefix: str = "") -> Any:
    """The dataclass `default` with other values, each checked by name and type."""
    hints = typing.get_type_hints(type(default))
    changed = {}
    for key, value in values.items():
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            name = f"{prefix}{brief(key)}".replace("'", "")
            raise UsageError(f"{where}: unknown option {name}{hint}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            nested = getattr(default, key)
            value = _over(nested, value, where=where, prefix=f"{prefix}{key}.")
        elif not _fits(value, hint):
            raise UsageError(
                f"{where}: {prefix}{key} is {brief(value)}, which is not "
                f"{_spelled(hint)}"
            )
        changed[key] = _converted(value, hint)
    try:
        return dataclasses.replace(default, **changed)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return True
        elif typing.get_origin(option) is tuple:
            item = typing.get_args(option)[0]
            entries = value if isinstance(value, list) else [value]
            if all(_fits(entry, item) for entry in entries):
                return True
        elif option is float:
            if _is_number(value):
                return True
        elif option is Path:
            if isinstance(value, str):
                return True
        elif type(value) is option:
            return True
    return False


def _is_number(value: Any) -> bool:
    """Also `1e-3`, which YAML takes for text."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, bool)


def _converted(value: Any, hint: Any) -> Any:
    options = _options(hint)
    if float in options and int not in options and _is_number(value):
        return float(value)
    if isinstance(value, str) and Path in options:
        return Path(value)
    if any(typing.get_origin(option) is tuple for option in options):
        # One value needs no brackets, as on the command line.
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def _spelled(hint: Any) -> str:
    words = []
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal:
            words += [repr(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append(_spelled(typing.get_args(option)[0]))
        elif option is type(None):
            words.append("null")
        else:
            words.append(getattr(option, "__name__", str(option)))
    return " or ".join(words)
