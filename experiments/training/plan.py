"""What a training is made of, and where it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvision import parallel
from jaxvision.stream import Stream
from jaxvision.train import TrainState

History = list[dict[str, float]]
Sums = dict[str, jax.Array]

FREE = ("epochs", "patience", "log", "shard")
"""Options that a run which goes on may have other values of."""


@dataclass(frozen=True)
class Plan:
    """What a training is made of, besides its state."""

    run_steps: Callable
    """As `jaxvision.train.make_epoch` gives it."""
    data: dict[str, jax.Array] | Stream
    """The training set: on the device, arrays of one length, `image` among them; or
    what brings it there batch by batch."""
    fingerprint: str
    """A digest of the training set, the same for the same photos and classes."""
    metrics: tuple[str, ...]
    """What the loss function reports; `loss` among them."""
    batch_size: int
    epochs: int
    key: jax.Array
    """All randomness of the run comes from it and the numbers of epoch and step."""
    evaluate: Callable[[TrainState], dict[str, float]]
    """The validation numbers, `val_...`, of a state."""
    learning_rate: Callable[[int], Any]
    """The schedule, by step."""
    judged_by: str
    """The column whose largest value marks the epoch to keep; `epoch` is the last."""
    keep_best: Callable[[TrainState, Path], None]
    """Called with a new best epoch's state and the folder, before its checkpoint."""
    repeat: int = 1
    """How often an epoch shows each image, where a random crop of it is another one."""
    draw: Callable[[jax.Array], jax.Array] | None = None
    """Draws the order of an epoch from its key; none: each image comes once."""
    patience: int = 0
    """Epochs without a better one before the training ends early; 0: it never does."""
    judged: str = ""
    """A digest of what the epochs are judged by."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """All else that decides what comes of it, as JSON holds it; `FREE` may change."""

    _known: dict[int, jax.Array] = field(default_factory=dict, init=False, repr=False)
    """The order that was asked for last, by its epoch."""

    @property
    def count(self) -> int:
        """Images of the training set."""
        data = self.data
        return len(data) if isinstance(data, Stream) else len(data["image"])

    @property
    def steps(self) -> int:
        """Steps an epoch; images that do not fill a batch wait for another epoch."""
        return self.repeat * self.count // self.batch_size

    @property
    def images(self) -> int:
        """Images that an epoch shows."""
        return self.steps * self.batch_size

    def title(self, epoch: int) -> str:
        """Which epoch it is, counted from one, of how many."""
        return f"epoch {epoch + 1}/{self.epochs}"

    def order(self, epoch: int) -> jax.Array:
        """The order of the images in an epoch, counted from zero."""
        if epoch not in self._known:
            key = jax.random.fold_in(self.key, epoch)
            if self.draw is not None:
                order = self.draw(key)
            else:
                count = self.count
                order = jax.random.permutation(key, self.repeat * count) % count
            self._known.clear()
            self._known[epoch] = order
        return self._known[epoch]

    def run(
        self, state: TrainState, sums: Sums, *, epoch: int, start: int, stop: int
    ) -> tuple[TrainState, Sums]:
        """Takes the steps from `start` up to `stop` of an epoch.

        `state` and `sums` are donated. None of the results is waited for.

        Raises:
          StreamError: the photographs cannot be had.
        """
        order, key = self.order(epoch), self.key
        if not isinstance(self.data, Stream):
            return self.run_steps(state, sums, self.data, order, start, stop, key)
        for batch in self.data.take(order, start, stop, epoch=epoch):
            state, sums = self.run_steps(state, sums, batch, None, 0, 1, key)
        return state, sums

    @property
    def waited(self) -> float:
        """Seconds in which this process's photographs were not there when needed."""
        return self.data.waited if isinstance(self.data, Stream) else 0.0

    def close(self) -> None:
        """Ends what was begun for steps to come."""
        if isinstance(self.data, Stream):
            self.data.close()

    def compile(
        self, state: TrainState, sums: Sums, *, epoch: int
    ) -> tuple[TrainState, Sums]:
        """Takes no step; `state` and `sums` come back as they were."""
        data, order = self.data, self.order(epoch)
        if isinstance(data, Stream):
            data, order = data.zeros(), None
        return self.run_steps(state, sums, data, order, 0, 0, self.key)

    def check(self, state: TrainState) -> None:
        """Raises ValueError for images or batches that a layer cannot take."""
        data, order = self.data, self.order(0)
        if isinstance(data, Stream):
            data, order = data.abstract(), None
        sums = self.no_sums()
        self.run_steps.eval_shape(state, sums, data, order, 0, 0, self.key)

    def best(self, history: History) -> int:
        """The number of the epoch whose model is kept, of those in the history."""
        judged = [row[self.judged_by] for row in history]
        return judged.index(max(judged)) + 1

    def is_done(self, history: History) -> bool:
        """Whether no further epoch is due."""
        waited = len(history) - self.best(history) if history else 0
        return len(history) >= self.epochs or 0 < self.patience <= waited

    def no_sums(self) -> dict[str, jax.Array]:
        """The sums of the metrics before an epoch's first step."""
        zeros = {name: np.zeros((), np.float32) for name in self.metrics}
        return parallel.place(zeros, self.key.sharding)


@dataclass
class Place:
    """Where a training stands; its state is donated to each step."""

    state: TrainState
    sums: dict[str, jax.Array]
    """The metrics summed over the steps of this epoch."""
    history: History = field(default_factory=list)
    epoch: int = 0
    start: int = 0
    """The next step of the epoch."""
    seconds: float = 0.0
    """How long the epoch's steps took."""
    model: str | None = None
    """The digest of the file with the best epoch's model, where there is one; empty,
    where the checkpoint does not say."""
