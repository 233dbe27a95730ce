"""What the notebooks share: curves that grow, photos in a grid, files in and out."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.pages.canvas import png
from experiments.pages.history import History
from experiments.pages.plots import curves_figure
from experiments.runs.folder import read_metrics

SECONDS = 2.0
"""How often the table is looked at; an epoch is rarely shorter."""


@contextmanager
def live_curves(output: Path) -> Iterator[None]:
    """Shows the curves of the run that the block trains below `output`, as they grow.

    A thread reads its `metrics.csv`, so that the training knows nothing of it, and goes
    on whatever becomes of the picture. Outside a notebook there is nothing to see.

    Args:
      output: what the run's `--output` is.
    """
    from IPython.display import Image, Markdown, display

    before = {path: path.stat().st_mtime_ns for path in _tables(output)}
    waiting = Markdown(
        "*The curves come with the first epoch; before it the program is compiled.*"
    )
    shown: Any = display(waiting, display_id=True)
    ended = threading.Event()

    def watch() -> None:
        seen: History = []
        last = False
        while not last:
            last = ended.wait(SECONDS)  # and once more after the end
            grown = [
                p for p in _tables(output) if before.get(p) != p.stat().st_mtime_ns
            ]
            history = read_metrics(grown[-1]) if grown else []
            if history and history != seen:
                seen = history
                figure = curves_figure(history)
                name = grown[-1].parent.relative_to(output)
                figure.suptitle(str(name), x=0.01, ha="left", size=8, parse_math=False)
                shown.update(Image(data=png(figure, dpi=90)))

    thread = threading.Thread(target=watch, daemon=True)
    if shown is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if shown is not None:
            thread.join()


def _tables(output: Path) -> list[Path]:
    """The tables of the runs below, the one that grew last at the end."""
    found = output.glob("*/*/**/metrics.csv")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def show(
    images: Sequence[np.ndarray] | np.ndarray,
    titles: Sequence[str],
    *,
    columns: int,
    side: float,
) -> Any:
    """Images in a grid, each pixel a square, as a picture for a notebook.

    Args:
      images: `(h, w, 3)` each; values outside [0, 1] are cut off.
      titles: of the first of them.
      columns: images a row.
      side: inches an image takes.
    """
    from IPython.display import Image

    rows = -(-len(images) // columns)
    size = (side * columns, 1.12 * side * rows)
    figure = Figure(figsize=size, layout="constrained")
    for index, image in enumerate(images):
        axis = figure.add_subplot(rows, columns, index + 1)
        axis.imshow(np.clip(image, 0, 1), interpolation="nearest")
        axis.axis("off")
        if index < len(titles):
            axis.set_title(titles[index], fontsize=8, parse_math=False)
    return Image(data=png(figure, dpi=90))


def keep_in_drive() -> Path:
    """Keeps what is compiled in the person's Drive; returns the folder for runs there.

    On Colab alone, and before anything is compiled.
    """
    from google.colab import drive  # pyright: ignore[reportMissingImports]

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/jaxvision")
    os.environ["JAXVISION_HOME"] = str(home)
    return home / "runs"


def uploaded() -> list[Path]:
    """Files that a person chooses in a dialogue; outside Colab nobody is asked."""
    try:
        from google.colab import files  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    return [Path(name) for name in files.upload()]


def offer(*paths: Path) -> None:
    """Gives files to the person's browser; outside Colab it says where they are."""
    try:
        from google.colab import files  # pyright: ignore[reportMissingImports]
    except ImportError:
        print(f"the files: {', '.join(map(str, paths))}")
        return
    for path in paths:
        files.download(str(path))
