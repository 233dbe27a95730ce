"""The page to try a model on: one file, which loads nothing and sends nothing away."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.pages.render import render, resource

STYLES = ("page.css", "try.css")
SCRIPTS = ("zip.js", "try.js")


class Page(NamedTuple):
    """A page, and the Content-Security-Policy under which it works."""

    html: bytes
    policy: str


def try_page(about: Mapping[str, Any]) -> Page:
    """The page.

    Args:
      about: `task`, classify or enlarge; `net`, its name; `facts`, what else to say of
        it; `largest`, most bytes of a photo; `classes` with the `folders` for their
        corrections, or `scale`.
    """
    style = "\n".join(map(resource, STYLES))
    script = "\n".join(map(resource, SCRIPTS))
    context = {"about": about, "style": style, "script": script}
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data: blob:; "
        f"script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(render("try.html", context), policy)


def _digest(text: str) -> str:
    """What allows an element with this text, and no other, to run."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
