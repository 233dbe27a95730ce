"""Checkpoints: a folder per step, written whole, restored only if every byte is right.

Orbax writes and reads the arrays, in `array_folder`. What it leaves open is closed
here: a step appears by one rename, once it was read again, with a sha256 manifest
inside, because Orbax restores a flipped bit without a word; shape and dtype are
compared with the target, because Orbax casts in silence; and a damaged step is passed
over for the newest whole one.

The folder of a step holds `state/` (Orbax), `metadata.json` and `manifest.json`.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision import processes
from jaxvision.array_folder import (
    Arrays,
    begin_arrays,
    read_arrays,
    reason,
    write_arrays,
)
from jaxvision.files import write_text
from jaxvision.manifest import MANIFEST, METADATA, find_fault, remove, seal, sync
from jaxvision.parallel import is_spread, place

Best = tuple[str, Literal["max", "min"]]
"""A number of the metadata and which end of it is the good one."""

STAGING = ".saving"
SCALARS = (bool, int, float)
LISTED = 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or restored; the text says why."""


class Restored(NamedTuple):
    """A restored step, and why each step that was tried before it was passed over."""

    step: int
    tree: Any
    metadata: dict[str, Any]
    skipped: tuple[str, ...]


def save(
    folder: str | Path,
    step: int,
    tree: Any,
    *,
    metadata: Mapping[str, Any],
    keep: int = 2,
    best: Best | None = None,
) -> None:
    """Writes `tree` as `folder/step`; the step is durable when this returns.

    An existing step of that number is replaced. Older steps go only when the new one is
    in place, so a process killed at any moment leaves the earlier steps as they were.
    Among several processes the first one writes; where an array is whole on none of
    them, each writes what it has, and all have to call it.

    Args:
      folder: holds one folder per step; made where it is missing.
      step: at least 0.
      tree: any pytree of arrays, typed PRNG keys and Python numbers.
      metadata: what JSON can hold.
      keep: how many of the newest steps stay, at least 1; the one just written
        always does.
      best: where given, the best step by this number of the metadata stays too (the
        earliest of equals; a step without the number, or with NaN, does not count).

    Raises:
      CheckpointError: a leaf or the metadata cannot be saved.
    """
    with Saver(folder, keep=keep, best=best) as saver:
        saver.save(step, tree, metadata=metadata)


class Saver(AbstractContextManager):
    """`save` in the background: blocks for the copy to the host, not for the disk.

    One save runs at a time, in order. An error of a save surfaces at the next call.
    Leaving the `with` block waits for the last save.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, best: Best | None = None):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        _check_best(best)
        # Absolute now: the working folder may be another one by the time of a save.
        self._folder, self._keep, self._best = Path(folder).absolute(), keep, best
        self._executor = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._is_shared = False

    def save(self, step: int, tree: Any, *, metadata: Mapping[str, Any]) -> None:
        """Waits for the save before, copies `tree` (it may be donated), and returns."""
        if step < 0:
            raise CheckpointError(f"step must be at least 0, not {step}")
        self.wait()
        leaves, record = _described(tree, metadata)
        self._is_shared = any(map(is_spread, leaves.values()))
        if self._is_shared:
            write = self._begin(int(step), leaves)
        elif processes.is_first():
            write = partial(self._write_alone, _to_host(leaves))
        else:
            return
        self._pending = self._executor.submit(self._write, int(step), write, record)

    def wait(self) -> None:
        """Returns when the last save is durable; raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            if self._is_shared:
                processes.gather("saved")

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()

    def __exit__(self, kind: object, *_: object) -> None:
        # After an error of this process the others do not come.
        self._is_shared = self._is_shared and kind is None
        self.close()

    def _begin(self, step: int, leaves: Mapping[str, Any]) -> Callable[[Path], None]:
        """Has all processes begin to write, into the folder that the first one makes.

        Returns:
          What waits for the end of that.
        """
        fault = ""
        if processes.is_first():
            try:
                self._make_staging()
            except OSError as error:
                fault = reason(error)
        fault = processes.gather(fault)[0]
        try:
            if fault:
                raise OSError(fault)
            # A process may have arrays of its own beside those in parts.
            own = {name: a for name, a in leaves.items() if not is_spread(a)}
            path = self._folder / STAGING / str(step)
            wait = begin_arrays(path, {**leaves, **_to_host(own)})
        except OSError as error:
            raise self._fault(step, error) from None
        return lambda _: wait()

    def _write_alone(self, arrays: Arrays, path: Path) -> None:
        self._make_staging()
        write_arrays(path, arrays)

    def _make_staging(self) -> None:
        staging = self._folder / STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)

    def _fault(self, step: int, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"step {step} cannot be saved in {self._folder}: {reason(error)}"
        )

    def _write(self, step: int, write: Callable[[Path], None], record: str) -> None:
        folder, staging = self._folder, self._folder / STAGING
        try:
            write(staging / str(step))
            if not processes.is_first():
                return
            write_text(staging / str(step) / METADATA, record)
            seal(staging / str(step))
        except BaseException as error:
            if processes.is_first():
                remove(staging)
            if not isinstance(error, OSError):
                raise
            raise self._fault(step, error) from None
        final = folder / str(step)
        if final.exists():
            final.rename(staging / "replaced")
        (staging / str(step)).rename(final)
        sync(folder)
        # What has no manifest was not written here, or was tampered with: it stays.
        listed = [s for s in _ranked(folder) if (folder / str(s) / MANIFEST).exists()]
        kept = {step, *listed[: self._keep], *_ranked(folder, self._best)[:1]}
        for old in set(listed) - kept:
            (folder / str(old)).rename(staging / f"old-{old}")
        shutil.rmtree(staging, ignore_errors=True)


def steps(folder: str | Path) -> list[int]:
    """The numbers of the saved steps in rising order, whole or damaged."""
    # Only the spelling that `save` writes: "007" would be looked for as "7".
    names = (path.name for path in Path(folder).glob("*") if path.is_dir())
    return sorted(int(n) for n in names if n.isdecimal() and str(int(n)) == n)


def restore(
    folder: str | Path,
    target: Any,
    *,
    best: Best | None = None,
    last: int | None = None,
) -> Restored | None:
    """The newest whole step, bit for bit, or None where nothing was ever saved.

    Args:
      folder: as in `save`.
      target: the tree that is expected: `jax.ShapeDtypeStruct`s, as `jax.eval_shape`
        gives, or arrays. A leaf's sharding is followed where it has one; a numpy array
        or a Python number comes back as such.
      best: where given, the best whole step by this number instead of the newest; steps
        without the number come last.
      last: where given, no later step than this.

    Raises:
      CheckpointError: every step is damaged (each reason is listed), or the leaves of
        the step differ from the target's (each is named).
    """
    _check_best(best)
    folder = Path(folder).absolute()
    skipped = []
    for step in _ranked(folder, best):
        if last is not None and step > last:
            continue
        path = folder / str(step)
        fault = find_fault(path)
        if fault is None:
            try:
                return Restored(step, *_read(path, target), tuple(skipped))
            except OSError as error:
                fault = str(error)
        skipped.append(f"step {step}: {fault}")
    if skipped:
        found = "\n  ".join(skipped)
        raise CheckpointError(f"no whole checkpoint in {folder}:\n  {found}")
    return None


def _check_best(best: Best | None) -> None:
    if best is not None and (len(best) != 2 or best[1] not in ("max", "min")):
        raise ValueError(f'best must be (name, "max") or (name, "min"), not {best!r}')


def _named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their paths, `params/layer1/kernel`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/") or "root": leaf
        for path, leaf in flat
    }
    if len(named) < len(flat):
        raise CheckpointError("two leaves of the tree have the same path")
    return named


def _spec(name: str, leaf: Any) -> str:
    """`float32[3,4]`, `key<fry>[]`; a Python number is its type's name."""
    if type(leaf) in SCALARS:
        return type(leaf).__name__
    dtype = getattr(leaf, "dtype", None)
    # A key's dtype is no numpy dtype, but of numpy's kind "O", like a Python object.
    if dtype is None or isinstance(dtype, np.dtype) and dtype.kind in "OSUMmT":
        raise CheckpointError(
            f"leaf {name} is a {type(leaf).__name__}: save arrays and numbers alone"
        )
    return f"{dtype}[{','.join(map(str, leaf.shape))}]"


def _described(tree: Any, metadata: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The leaves that have data, keys as such, and the text of `metadata.json`."""
    leaves = _named_leaves(tree)
    specs = {name: _spec(name, leaf) for name, leaf in leaves.items()}
    impls = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                impls[name] = str(jax.random.key_impl(leaf))
                leaves[name] = jax.random.key_data(leaf)
    record = {"metadata": dict(metadata), "leaves": specs, "key_impls": impls}
    try:
        text = json.dumps(record, indent=1)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the metadata must be JSON: {error}") from None
    # Orbax refuses what is empty; its shape and dtype are in the record.
    return {name: leaf for name, leaf in leaves.items() if np.size(leaf)}, text


def _to_host(leaves: Mapping[str, Any]) -> Arrays:
    """Copies of the leaves on the host."""
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # so that the transfers overlap
    # A real copy: a view of a CPU array would stop its donation to the next step.
    return {name: np.array(leaf) for name, leaf in leaves.items()}


def _score(folder: Path, step: int, best: Best) -> float | None:
    """The number of a step that `best` asks for, turned so that more is better."""
    name, end = best
    try:
        record = json.loads((folder / str(step) / METADATA).read_text("utf-8"))
        number = float(record["metadata"][name])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if math.isnan(number) else number if end == "max" else -number


def _ranked(folder: Path, best: Best | None = None) -> list[int]:
    """The steps, newest first; with `best`, first those with a number, by it."""
    newest = steps(folder)[::-1]
    if best is None:
        return newest
    found = {step: _score(folder, step, best) for step in newest}
    scores = {step: score for step, score in found.items() if score is not None}
    by_score = sorted(scores, key=lambda step: (-scores[step], step))
    return by_score + [step for step in newest if step not in scores]


def _read(path: Path, target: Any) -> tuple[Any, dict[str, Any]]:
    """The tree and the metadata of a whole step."""
    record = json.loads((path / METADATA).read_text("utf-8"))
    wanted = _named_leaves(target)
    _compare(path, record["leaves"], wanted)
    values = read_arrays(path, [name for name, leaf in wanted.items() if np.size(leaf)])
    values |= {n: _empty(leaf) for n, leaf in wanted.items() if not np.size(leaf)}
    impl = record["key_impls"].get
    placed = [_place(n, leaf, values[n], impl(n)) for n, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(target), placed), record["metadata"]


def _empty(leaf: Any) -> np.ndarray:
    """The data of a leaf that has none."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return np.empty(leaf.shape, leaf.dtype)


def _compare(path: Path, saved: dict[str, str], wanted: dict[str, Any]) -> None:
    """Raises with the leaves that differ between a step and the target."""
    differ = [
        f"{name}: saved, not in the target" for name in saved if name not in wanted
    ]
    for name, leaf in wanted.items():
        want = _spec(name, leaf)
        if name not in saved:
            differ.append(f"{name}: not saved, {want} in the target")
        elif saved[name] != want and not _is_number(saved[name], leaf):
            differ.append(f"{name}: saved {saved[name]}, target {want}")
    if differ:
        more = [f"and {len(differ) - LISTED} more"]
        lines = "\n  ".join(differ[:LISTED] + more * (len(differ) > LISTED))
        raise CheckpointError(f"checkpoint {path} does not fit the target:\n  {lines}")


def _is_number(saved: str, leaf: Any) -> bool:
    """Whether a saved Python number is what `jax.eval_shape` made an array of."""
    weak = getattr(leaf, "weak_type", False) and leaf.shape == ()
    return weak and f"{saved} {leaf.dtype.kind}" in ("bool b", "int i", "float f")


def _place(name: str, leaf: Any, value: Any, impl: str | None) -> Any:
    """The saved numpy value as the target's kind of leaf, where the target has it."""
    if type(leaf) in SCALARS:
        return type(leaf)(value.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return value if isinstance(leaf, np.ndarray) else value[()]
    weak = not impl and leaf.weak_type and leaf.shape == ()
    if weak and jnp.result_type(value.item()) == leaf.dtype:
        # A weak type that came back strong would compile the step once more.
        value = value.item()
    sharding = leaf.sharding if getattr(leaf, "committed", True) else None
    several = isinstance(sharding, jax.sharding.NamedSharding)
    array = place(value, sharding) if several else jax.device_put(value, sharding)
    if impl:
        return jax.random.wrap_key_data(array, impl=impl)
    if array.dtype != leaf.dtype:
        raise CheckpointError(f"leaf {name} is {leaf.dtype}: set jax_enable_x64")
    return array
