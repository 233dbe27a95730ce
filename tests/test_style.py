"""The style of the code, held by reading it, and the check of its annotations."""

import ast
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from jaxvision import augment

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxvision", "converters", "experiments")
MOST_PARAMETERS, MOST_LINES, MOST_FILE_LINES = 8, 80, 400

POSITIONAL_OPTIONS = {
    "jaxvision.ops.convolution.conv_general_dilated": "jax.lax's signature: flax calls "
    "it in place of that one",
}
LARGE = {
    "jaxvision.ops.convolution.conv_general_dilated": "jax.lax's signature: flax calls "
    "it in place of that one",
    "jaxvision.ops.convolution._geometry": "the part of it that decides",
}
"""Functions with more parameters or lines than others may have, and why."""


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _files() -> list[Path]:
    paths = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    assert paths
    return paths


def _functions(*, public: bool):
    """`(dotted name, node)` of every function, or of those that others call.

    Public are functions and methods without a leading underscore, and `__init__`; not
    `__call__`, whose form is the model's, and not functions inside functions.
    """

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = child.name.startswith("_") and child.name != "__init__"
                if not (public and hidden):
                    yield f"{prefix}.{child.name}", child
                if not public:
                    yield from walk(child, f"{prefix}.{child.name}")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}.{child.name}")
            elif not public:
                yield from walk(child, prefix)

    for path in _files():
        yield from walk(ast.parse(path.read_text()), _module(path))


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return [arg for arg in named if arg.arg not in ("self", "cls")]


def test_optional_arguments_are_keyword_only():
    found = {name for name, node in _functions(public=True) if node.args.defaults}
    assert found == POSITIONAL_OPTIONS.keys()


def test_booleans_are_keyword_only():
    found = [
        f"{name}({arg.arg})"
        for name, node in _functions(public=True)
        for arg in (*node.args.posonlyargs, *node.args.args)
        if arg.annotation and "bool" in ast.unparse(arg.annotation).split(" | ")
    ]
    assert not found


def test_no_public_function_passes_on_what_it_does_not_name():
    assert not [name for name, node in _functions(public=True) if node.args.kwarg]


def test_functions_are_small():
    found = {
        name
        for name, node in _functions(public=False)
        if len(_parameters(node)) > MOST_PARAMETERS
        or node.end_lineno - node.lineno + 1 > MOST_LINES
    }
    assert found == LARGE.keys()


def test_files_are_small():
    paths = [*_files(), *(ROOT / "tests").rglob("*.py")]
    paths += (ROOT / "benchmarks").rglob("*.py")
    lines = {_module(path): len(path.read_text().splitlines()) for path in paths}
    assert not {name for name, count in lines.items() if count > MOST_FILE_LINES}


def test_a_wrong_shape_or_dtype_is_refused_by_the_name_of_its_argument():
    """So all of the suite runs with the annotations checked (`tests/conftest.py`)."""
    images, flip = jnp.zeros((2, 16, 16, 3)), jnp.ones(2, bool)
    augment.horizontal_flip(images, flip)
    for wrong in (images[0], images.astype(jnp.uint8)):
        with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'images'"):
            augment.horizontal_flip(wrong, flip)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'flip'"):
        augment.horizontal_flip(images, flip[:1])
