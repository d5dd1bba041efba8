"""YAML as plain data, with the line of every value, so that an error can point at what the user wrote."""

from __future__ import annotations

import re
from typing import Any

import yaml

from dft_sweeps.spec.errors import SpecError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 3e-4 is a number, and `no` and `on` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """One value as YAML has it, e.g. of ``--set path=value``."""
    return yaml.load(text, Loader=_Loader)


def parse(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    """The data of a YAML document and the line (from 1) of every key and item by its path.

    Raises:
        SpecError: not YAML, a key that is no plain text, or a key twice in one mapping.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        if node is None:
            return None, lines
        _note_lines(node, (), lines, file)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"not valid YAML: {error.problem or error.context}", f"{file}:{line}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML: {' '.join(str(error).split())}", file) from error
    except RecursionError as error:
        raise SpecError("not valid YAML: nested too deeply", file) from error
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError("a key must be plain text", f"{file}:{line}")
            key = (*path, key_node.value)
            if key in lines:
                raise SpecError(f"{key_node.value!r} is given twice", f"{file}:{line}")
            lines[key] = line
            _note_lines(value_node, key, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*path, index), lines, file)
