"""A spec file as data, with overrides from the command line; knows where each part of it was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dft_sweeps.spec import yaml_lines
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.yaml_lines import dotted

EMBEDDED = "embedded"
"""The one `path` that names no place: the base policy shipped with the package."""


class Document:
    """The data of a spec, and for each part of it the line or the override that gave it."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise SpecError("no such spec file", self.file) from error
        except UnicodeDecodeError as error:
            raise SpecError(f"not UTF-8 text ({error.reason} at byte {error.start})", self.file) from error
        except OSError as error:
            raise SpecError(f"cannot be read: {error.strerror}", self.file) from error
        self.data, self._places = yaml_lines.parse(text, lambda line: f"{self.file}:{line}")
        if not isinstance(self.data, dict):
            found = "the file is empty" if self.data is None else f"found {yaml_lines.shown(self.data)}"
            raise SpecError(f"a spec is a mapping with the fields `name` and `trial`; {found}", self.file)

    def error(self, path: tuple[str | int, ...], message: str) -> SpecError:
        """A mistake in the value at `path`, or, where that is not given, in what it would be a part of."""
        known = path
        while known and known not in self._places:
            known = known[:-1]
        place = self._places.get(known, self.file)
        return SpecError(message, f"{place}: {dotted(path)}" if path else place)

    def override(self, path: list[str], text: str, place: str) -> None:
        """Sets the value at `path` to what `text` says as YAML; `place` is what errors in it call that.

        Raises:
            SpecError: `text` is not valid YAML, or `path` leads through something that is no mapping.
        """
        value, places = yaml_lines.parse(text, lambda line: place)
        value = with_absolute_paths(value, Path.cwd(), named=path[-1])
        try:
            set_at(self.data, path, value)
        except TypeError as error:
            raise SpecError(str(error), place) from error
        at = tuple(path)
        self._places = {known: line for known, line in self._places.items() if known[: len(at)] != at}
        self._places |= {at: place} | {(*at, *below): line for below, line in places.items()}


def set_at(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets a value below mappings, which are made where they are not there yet. Raises TypeError on other values."""
    *parents, last = path
    for depth, name in enumerate(parents):
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            where = ".".join(parents[: depth + 1])
            raise TypeError(f"`{where}` is {yaml_lines.shown(data)}, so it has no field {last!r}")
    data[last] = value


def with_absolute_paths(value: Any, directory: Path, named: str = "") -> Any:
    """`value` with every field called `path` that names an existing file or directory made absolute.

    What does not exist stays as it is: it may be the id of a model on a hub.

    Args:
        directory: where relative paths start.
        named: the (dotted) name of `value` itself.
    """
    if isinstance(value, dict):
        return {name: with_absolute_paths(item, directory, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_absolute_paths(item, directory, named) for item in value]
    if isinstance(value, str) and value != EMBEDDED and named.split(".")[-1] == "path":
        path = os.path.join(directory, os.path.expanduser(value))
        return os.path.realpath(path) if os.path.exists(path) else value
    return value
