"""YAML files of options: what people write and what runs keep, and nothing cunning."""

from pathlib import Path
from typing import Any

import yaml

from jaxvision.files import regular_file

LONGEST = 2**20
"""Bytes; a run's `config.yaml` has some thousand."""
DEEPEST = 20
"""Levels of nesting; options have two."""


class YamlError(ValueError):
    """A file is no YAML of options; one line says why."""


class _Loader(yaml.SafeLoader):
    """YAML without what options do not need, each of which goes wrong unseen.

    Of two equal keys PyYAML takes the last; aliases of aliases make gigabytes of a few
    lines; deep nesting ends Python's stack.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="an alias (*): write the value itself", problem_mark=mark
            )
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem=f"more than {DEEPEST} levels of nesting", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in found:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is there twice", problem_mark=key.start_mark
                )
            found.add(name)
        return node


def read_yaml_file(path: Path) -> Any:
    """The plain values in a YAML file.

    Raises:
      OSError: the file cannot be read.
      YamlError: it holds something else.
    """
    with open(path, "rb", opener=regular_file) as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise YamlError(f"it has more than {LONGEST:,} bytes")
    try:
        return yaml.load(data.decode(), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = mark and f", line {mark.line + 1}, column {mark.column + 1}"
        raise YamlError(f"{error.problem or error.context}{where or ''}") from None
    except UnicodeDecodeError as error:
        raise YamlError(f"byte {error.start} is no UTF-8") from None
    # Of numbers and dates that Python cannot hold, too.
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(" ".join(str(error).split(";")[0].split())) from None
