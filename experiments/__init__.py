"""The command-line programs: each a `Config` dataclass and `main(config)`."""

import signal
import sys
from importlib.util import find_spec

NEEDED = ("jinja2", "matplotlib", "rich", "scipy", "skimage", "tyro", "yaml")
INSTALL = "pip install 'jaxvision[app]' (in a checkout: -e '.[app]')"

missing = [name for name in NEEDED if find_spec(name) is None]
if missing and sys.argv[0] == "-m":  # a program starts: one line is enough
    print(f"error: {', '.join(missing)} not installed: {INSTALL}", file=sys.stderr)
    sys.exit(2)

# Ctrl-C while a program imports ends it, without a traceback; `run_cli` takes over.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) == (
    signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
