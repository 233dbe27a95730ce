"""What the pages share: templates, escaping, and options as tables."""

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """A page of this folder's `template`, everything in `context` escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["soft"] = soft
    html = environment.get_template(template).render(context)
    # A file name that is no UTF-8 must not cost the page.
    return html.encode("utf-8", "replace")


def tables(
    config: Mapping[str, Any], *, name: str = "options"
) -> Iterator[tuple[str, dict[str, str]]]:
    """Nested options as flat tables: each mapping inside is a table of its own."""
    flat = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    if flat:
        yield name, {str(key): plain(value) for key, value in flat.items()}
    for key, value in config.items():
        if isinstance(value, Mapping):
            inner = str(key) if name == "options" else f"{name}.{key}"
            yield from tables(value, name=inner)


def plain(value: Any) -> str:
    """An option as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


def soft(value: object) -> Markup:
    """`value`, escaped, with a place to break the line after each `_` and `/`."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/])", str(value)))


def resource(name: str) -> str:
    """The text of a file of this folder."""
    return resources.files("experiments.pages").joinpath(name).read_text("utf-8")
