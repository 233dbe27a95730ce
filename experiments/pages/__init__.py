"""Runs for people: pictures, the table of predictions, one HTML page."""

import os
import sys
from contextlib import suppress

if "matplotlib" not in sys.modules:
    # A notebook names its own backend to all that it starts, programs of another
    # environment too, where matplotlib, which has no such backend, refuses to be
    # imported. The pictures need none; a notebook's own Python keeps its own.
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
