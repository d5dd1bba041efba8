"""A spec as data; knows for each part of it in which file and line, or by which option, it was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dft_sweeps.spec import yaml_lines
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.yaml_lines import dotted

Keys = tuple[str | int, ...]

EMBEDDED = "embedded"
"""The one `path` that names no place: the base policy shipped with the package."""


class Document:
    """The data of a spec, and for each part of it the line or the override that gave it."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Reads one file as it stands, or the `text` that stands for a file of this name.

        Raises:
            SpecError: it cannot be read, or holds no mapping.
        """
        self.file = str(path)
        if text is None:
            text = _read(path)
        self.data, self._places = yaml_lines.parse(text, lambda line: f"{self.file}:{line}")
        if not isinstance(self.data, dict):
            found = "the file is empty" if self.data is None else f"found {yaml_lines.shown(self.data)}"
            raise SpecError(f"a spec is a mapping with the fields `name` and `trial`; {found}", self.file)

    @property
    def directory(self) -> Path:
        """Where the file's relative paths start."""
        return Path(self.file).resolve().parent

    def place(self, path: Keys) -> str:
        """Where the value at `path` is written or, where that is not given, what it would be a part of."""
        known = path
        while known and known not in self._places:
            known = known[:-1]
        return self._places.get(known, self.file)

    def error(self, path: Keys, message: str) -> SpecError:
        """A mistake in the value at `path`, or, where that is not given, in what it would be a part of."""
        place = self.place(path)
        return SpecError(message, f"{place}: {dotted(path)}" if path else place)

    def override(self, path: list[str], text: str, place: str, directory: Path | None) -> None:
        """Sets the value at `path` to what `text` says as YAML; `place` is what errors in it call that.

        Args:
            directory: where relative paths in it start; None leaves them as they are, and looks at no file.

        Raises:
            SpecError: `text` is not valid YAML, or `path` leads through something that is no mapping.
        """
        value, places = yaml_lines.parse(text, lambda line: place)
        if directory is not None:
            value = with_absolute_paths(value, directory, ".".join(path))
        self._put(path, value, places | {(): place}, place)

    def take(self, path: list[str], other: Document, at: Keys) -> None:
        """Sets the value at `path` to that of `other` at `at`, whose place it keeps.

        Raises:
            SpecError: `path` leads through something that is no mapping.
        """
        value: Any = other.data
        for element in at:
            value = value[element]
        places = {known[len(at) :]: line for known, line in other._places.items() if known[: len(at)] == at}
        self._put(path, value, places, f"{other.place(at)}: {'.'.join(path)}")

    def move(self, file: str) -> None:
        """Makes it the document of `file`, whose directory relative paths start at, without changing what they mean."""
        directory, self.file = self.directory, file
        if self.directory != directory:
            self.data = with_absolute_paths(self.data, directory)

    def _put(self, path: list[str], value: Any, places: dict[Keys, str], place: str) -> None:
        try:
            set_at(self.data, path, value)
        except TypeError as error:
            raise SpecError(str(error), place) from error
        at = tuple(path)
        self._places = {known: line for known, line in self._places.items() if known[: len(at)] != at}
        self._places |= {(*at, *below): line for below, line in places.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SpecError("no such spec file", str(path)) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"not UTF-8 text ({error.reason} at byte {error.start})", str(path)) from error
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", str(path)) from error


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
    """`value` with every field called `path` made absolute.

    A model's path that names nothing there stays as it is: it may be the id of a model on a hub.

    Args:
        directory: where relative paths start.
        named: the dotted name of `value` itself.
    """
    if isinstance(value, dict):
        return {name: with_absolute_paths(item, directory, f"{named}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_absolute_paths(item, directory, named) for item in value]
    *_, holder, last = ["", "", *named.removesuffix(".values").split(".")]  # those of a search's choice
    if isinstance(value, str) and value != EMBEDDED and last == "path":
        path = os.path.join(directory, os.path.expanduser(value))
        return value if holder == "model" and not os.path.exists(path) else os.path.realpath(path)
    return value
