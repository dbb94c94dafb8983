"""YAML files of people, read so that no file costs more than its size: plain data, no aliases, bounded depth.

PyYAML builds what an alias stands for once, but whoever prints or checks the result walks it once for each use; ten
lines of ten aliases each are a billion values. What we read is written by hand and needs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BYTES_MAX = 1 << 17  # a second or two of parsing; ours have a few thousand
DEPTH_MAX = 32
SCALAR_CHARS_MAX = 1000  # a longer number can be read but not printed


class YamlError(ValueError):
    """A file that is not plain YAML; names the file and, where it can, the line."""


class _PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._refuse("expected values written out, got an alias", self.peek_event().start_mark)
        self.depth += 1
        if self.depth > DEPTH_MAX:
            self._refuse(f"expected at most {DEPTH_MAX} levels, got more", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > SCALAR_CHARS_MAX:
            self._refuse(f"expected values of at most {SCALAR_CHARS_MAX} characters, got more", node.start_mark)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            self._refuse(f"expected each key once, got '{twice[:80]}' again", node.start_mark)
        return super().construct_mapping(node, deep)

    def _refuse(self, problem: str, mark: Any) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def explain_yaml_error(error: yaml.YAMLError) -> str:
    """What is not valid, and in which line, in one line; the library's own text has several."""
    place = getattr(error, "problem_mark", None)
    line = f" in line {place.line + 1}" if place else ""
    return f"not valid YAML{line}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"


def load_yaml(path: Path) -> Any:
    """Plain data of a YAML file. Raises OSError, or YamlError for anything but plain YAML of at most ``BYTES_MAX``."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except ValueError as error:  # a name that no file can have
        raise YamlError(f"{str(path)!r}: expected the path of a file ({error})") from error
    if len(data) > BYTES_MAX:
        raise YamlError(f"{path}: expected at most {BYTES_MAX} bytes, got more")
    try:
        return yaml.load(data.decode(), _PlainLoader)
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: expected text, got bytes that are none") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{path}: {explain_yaml_error(error)}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # of the library's own conversions: the 99th of a month, a number of thousands of digits
        raise YamlError(f"{path}: not valid YAML: a value of the wrong form ({error})") from error
