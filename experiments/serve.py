"""Opens a page on this computer to try a model on photos of one's own.

python -m experiments.serve RUN
python -m experiments.serve light --scale 3
"""

import os
import signal
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from converters.bundle import architecture
from experiments.command import limits
from experiments.command.console import Console
from experiments.command.limits import at_least, check_limits, limited
from experiments.command.options import UsageError, run_cli
from experiments.inference import enlarger
from experiments.inference.portable import ABOUT
from experiments.inference.trained import trained_names
from experiments.serving.answers import classifier_service
from experiments.serving.enlargements import enlarger_service
from experiments.serving.service import Service

MODULE = "experiments.serve"
INSTALL = "pip install 'jaxvision[serve]' (in a checkout: -e '.[serve]')"
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Config:
    """Opens a page on this computer to try a model on photos of one's own.

    Programs POST a photo to /predict (or /enlarge) and get JSON (or a PNG):
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")] = MISSING
    """A run's folder, or its model.safetensors, or the folder of an export; or light,
    the network that comes with the program and enlarges photos."""
    scale: Literal[2, 3, 4] | None = None
    """How many times larger photos become; by default 2, or what the run was trained
    for."""
    precision: float | None = limited(None, limits.chance)
    """The share of answers that must be right, such as 0.95: a photo of which the
    model is less sure than that takes, by its validation images, is unsure."""
    host: str = "127.0.0.1"
    """The address to serve at; 0.0.0.0 is all of this machine's, for everybody who can
    reach it."""
    port: int = limited(8000, at_least(0, most=65535))
    """0: any that is free."""
    open: bool = True
    """Open the page in a browser, where there is a screen."""

    def __post_init__(self):
        """Raises ValueError, with the option's name, for a value without a meaning."""
        check_limits(self)


def main(config: Config) -> None:
    """Serves until Ctrl-C; nothing that is sent is kept.

    Raises:
      UsageError: there is no such model, or no such host here, or a package is missing.
      RunError: the port is taken.
    """
    if find_spec("tornado") is None:
        raise UsageError(f"tornado is not installed: {INSTALL}")
    from experiments.serving.server import serve

    console = Console()
    service = open_service(config)

    def ready(address: str, stop: Callable[[], object]) -> None:
        del stop
        console.say(f"the page is at {address}; Ctrl-C ends it")
        if config.host not in LOCAL:
            console.say(
                f"WARNING: everybody who reaches {config.host} can use it",
                style="bold yellow",
            )
        if config.open and _has_screen():
            webbrowser.open(address)

    try:
        serve(service, host=config.host, port=config.port, ready=ready)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to be saved
        console.say("stopped")


def open_service(config: Config) -> Service:
    """What the model can do.

    Raises:
      UsageError: there is none, or an option is not for this one.
    """
    if not _enlarges(config.run):
        if config.scale is not None:
            raise UsageError(f"--scale: {config.run} names what photos show")
        return classifier_service(config.run, precision=config.precision)
    if config.precision is not None:
        raise UsageError(f"--precision: {config.run} enlarges photos")
    return enlarger_service(str(config.run), scale=config.scale)


def _enlarges(run: Path) -> bool:
    if str(run) in trained_names():
        return True
    file = run / "model.safetensors" if run.is_dir() else run
    is_export = (run / ABOUT).is_file()
    return not is_export and architecture(file) in enlarger.names()


def _has_screen() -> bool:
    """Whether a browser can open a window; one of a terminal would take its lines."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    run_cli(Config, main, prog=f"python -m {MODULE}")
