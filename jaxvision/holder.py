"""Who holds a lock: a small file beside it, for those who have to wait."""

import json
import os
import socket
import time
from pathlib import Path

from jaxvision.files import read_text, write_text


def sign(path: Path) -> None:
    """Writes down that this process holds the lock."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    write_text(path, json.dumps(me))


def holder(path: Path) -> str:
    """Who signed `path`, in words."""
    try:
        found = json.loads(read_text(path))
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
