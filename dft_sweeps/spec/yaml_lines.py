"""YAML as plain data, with the place of every value, so that an error can point at what the user wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import yaml
from yaml.reader import ReaderError

from dft_sweeps.spec.errors import SpecError

Path = tuple[str | int, ...]
Where = Callable[[int], str]
"""What an error calls a line (from 1)."""

MOST_VALUES = 100_000
"""Anchors and aliases can make a few lines into any number of values."""
DEEPEST = 50
LARGEST = 2**63 - 1


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: 3e-4 is a number, and `no` and `on` are words. Every key is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key_node, _ in node.value:
            key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # Merges of merges would otherwise pile up the same keys without bound. The last of a name is what counts.
        node.value = list({key.value: (key, value) for key, value in node.value}.values())


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
# PyYAML's own reads 010 as 8.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what `_Loader` would otherwise not read back as text, e.g. the revision 1234e567."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump(data: Any) -> str:
    """`data` as YAML that `parse` reads back as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def parse(text: str, where: Where) -> tuple[Any, dict[Path, str]]:
    """The data of a YAML document and the place (as `where` has it) of every key and item by its path.

    Raises:
        SpecError: not YAML, a key that is no plain text or comes twice in one mapping, a tag, a number of more than
            64 bits, or data that is too deep or too large.
    """
    try:
        return _parse(text, where)
    except ReaderError as error:
        line = where(text.count("\n", 0, error.position) + 1)
        raise SpecError(f"the character U+{error.character:04X} is not text", line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(word for word in (_context(error), error.problem) if word)
        raise SpecError(f"not valid YAML: {words}", where(mark.line + 1 if mark else 1)) from error
    except yaml.YAMLError as error:
        raise SpecError(f"not valid YAML: {' '.join(str(error).split())}", where(1)) from error
    except RecursionError as error:
        raise SpecError("nested too deeply, or an anchor that holds itself", where(1)) from error


def _context(error: yaml.MarkedYAMLError) -> str:
    begun, ended = error.context_mark, error.problem_mark
    line = f" begun in line {begun.line + 1}" if begun and ended and begun.line != ended.line else ""
    return f"{error.context or ''}{line}"


def _parse(text: str, where: Where) -> tuple[Any, dict[Path, str]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        places: dict[Path, str] = {}
        if node is None:
            return None, places
        _Places(loader, where, places).note(node, ())
        return loader.construct_document(node), places
    finally:
        loader.dispose()


class _Places:
    """Walks a document's nodes, notes where they stand and refuses those that are no plain data."""

    def __init__(self, loader: _Loader, where: Where, places: dict[Path, str]) -> None:
        self._loader, self._where, self._places = loader, where, places

    def note(self, node: yaml.Node, path: Path) -> None:
        self._places.setdefault(path, self._line(node))
        self._check(node, path)
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node, path)
            self._loader.flatten_mapping(node)  # `<<` gives way to the pairs it stands for, which come first
            for key_node, value_node in node.value:
                key = (*path, key_node.value)
                self._places[key] = self._line(key_node)
                self.note(value_node, key)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.note(item, (*path, index))

    def _line(self, node: yaml.Node) -> str:
        return self._where(node.start_mark.line + 1)

    def _refuse(self, node: yaml.Node, path: Path, message: str) -> SpecError:
        name = dotted(path)
        return SpecError(message, f"{self._line(node)}: {name}" if name else self._line(node))

    def _check(self, node: yaml.Node, path: Path) -> None:
        if len(self._places) > MOST_VALUES:
            raise self._refuse(node, path, f"more than {MOST_VALUES:,} values; do aliases multiply each other?")
        if len(path) > DEEPEST:
            raise self._refuse(node, path[:3], f"nested more than {DEEPEST} deep; does an anchor hold itself?")
        # Without a tag of its own, a node has the one its spelling implies.
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        implied = self._loader.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
        if node.tag != implied:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._refuse(node, path, f"the tag {tag} has no use here; text may stand in quotes, numbers without")
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, path)

    def _check_scalar(self, node: yaml.ScalarNode, path: Path) -> None:
        if node.tag.endswith(":int") and (len(node.value) > 30 or abs(int(node.value)) > LARGEST):
            shown = node.value if len(node.value) <= 30 else f"{node.value[:10]}... ({len(node.value)} digits)"
            raise self._refuse(node, path, f"{shown} is too large a number; the largest is {LARGEST}")
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise self._refuse(node, path, "half of a surrogate pair is not text; write the character itself")

    def _check_keys(self, node: yaml.MappingNode, path: Path) -> None:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refuse(key_node, path, "a key must be plain text")
            if key_node.value in seen:
                raise self._refuse(key_node, (*path, key_node.value), "is given twice")
            seen.add(key_node.value)
            self._check(key_node, path)


def dotted(path: Sequence[str | int]) -> str:
    """A path as the user writes it, e.g. ``evaluation.benchmarks[1].limit``."""
    text = ""
    for element in path:
        text += f"[{element}]" if isinstance(element, int) else f".{element}" if text else element
    return text


def shown(value: Any) -> str:
    """A value in an error message, with what YAML takes it for."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    names = {"str": "the text ", "list": "the list ", "dict": "the mapping "}
    return names.get(type(value).__name__, "") + short
