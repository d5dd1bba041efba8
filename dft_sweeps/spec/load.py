"""From a spec file to a `Sweep`: the validated spec and its trials. Every error names file, line and path."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dft_sweeps.spec import schema, yaml_lines
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SweepSpec, TrialSpec


class Document:
    """The data of a spec file, and where each part of it stands."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise SpecError("no such spec file", self.file) from error
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"cannot be read: {error}", self.file) from error
        self.data, self.lines = yaml_lines.parse(text, self.file)
        if not isinstance(self.data, dict):
            raise SpecError("a spec is a mapping with the fields `name` and `trial`", self.file)

    def error(self, path: tuple[str | int, ...], message: str) -> SpecError:
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known in self.lines else ""
        dotted = _dotted(path)
        return SpecError(message, f"{self.file}{line}: {dotted}" if dotted else f"{self.file}{line}")

    def set(self, path: str, value: Any) -> None:
        _set(self.data, path, value)
        self.lines = {
            known: line for known, line in self.lines.items() if ".".join(map(str, known)) != path
        }


@dataclass(frozen=True)
class Trial:
    """One cell of the grid."""

    name: str
    """The values that tell it from the other trials, e.g. ``objective.kind=dft learning_rate=0.0003``."""
    axes: dict[str, Any]
    """Dotted path (or ``variant``) to this trial's value."""
    spec: TrialSpec


@dataclass(frozen=True)
class Sweep:
    spec: SweepSpec
    trials: tuple[Trial, ...]
    document: Document

    @property
    def directory(self) -> Path:
        """Where the spec's relative paths start."""
        return Path(self.document.file).resolve().parent

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Mistakes found inside the block are reported at this place of the spec file."""
        try:
            yield
        except SpecError as error:
            raise self.document.error(path, str(error)) from error

    def resolved_yaml(self) -> str:
        """The spec with every override applied, as YAML that loads to the same sweep."""
        return yaml.safe_dump(self.spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a spec file, applies overrides (``trial.train.steps=20``) and expands it to trials.

    Raises:
        SpecError: whatever is wrong with the file, an override or a trial.
    """
    document = Document(path)
    for override in overrides:
        _apply_override(document, override)
    try:
        spec = schema.validate(SweepSpec, document.data)
    except ValidationError as error:
        raise _first_error(document, schema.messages(error, SweepSpec, document.data)) from error
    return Sweep(spec, tuple(_expand(spec, document)), document)


def _apply_override(document: Document, override: str) -> None:
    path, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not path:
        raise SpecError("an override has the form path=value, e.g. trial.train.steps=20", where)
    names = path.split(".")
    model, start = (TrialSpec, 1) if names[0] == "trial" else (SweepSpec, 0)
    if names[0] not in {"axes", "variants"} and (unknown := schema.unknown_element(model, names[start:])):
        raise SpecError(unknown, where)
    try:
        value = yaml_lines.parse_value(text)
    except yaml.YAMLError as error:
        raise SpecError("the value is not valid YAML", where) from error
    if names[-1] == "path" and isinstance(value, str) and Path(value).expanduser().exists():
        value = str(Path(value).expanduser().resolve())  # on the command line, paths start at the current directory
    try:
        document.set(path, value)
    except TypeError as error:
        raise SpecError(str(error), where) from error


def _first_error(document: Document, found: list[tuple[tuple[str | int, ...], str]]) -> SpecError:
    """The mistake that stands first in the file, and how many more there are."""
    errors = [document.error(path, message) for path, message in found]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return SpecError(f"{errors[0]}{more}")


def _expand(spec: SweepSpec, document: Document) -> list[Trial]:
    _check_axes(spec, document)
    trials: list[Trial] = []
    seen: dict[str, str] = {}
    for variant in spec.variants or (None,):
        fixed = variant.set if variant else {}
        free = {path: values for path, values in spec.axes.items() if path not in fixed}
        for combination in itertools.product(*free.values()):
            axes = dict(zip(free, combination, strict=True)) | {path: fixed[path] for path in spec.axes if path in fixed}
            if variant:
                axes = {"variant": variant.name} | axes
            trial = _trial(spec, document, axes, {**fixed, **dict(zip(free, combination, strict=True))})
            content = trial.spec.model_dump_json()
            if content in seen:
                raise document.error(("axes",), f"two trials are the same: {seen[content]!r} and {trial.name!r}")
            seen[content] = trial.name
            trials.append(trial)
    return trials


def _check_axes(spec: SweepSpec, document: Document) -> None:
    names = [variant.name for variant in spec.variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise document.error(("variants", index, "name"), f"variant {name!r} is given twice")
    places = [(("axes", path), path) for path in spec.axes]
    places += [(("variants", i, "set", path), path) for i, variant in enumerate(spec.variants) for path in variant.set]
    for place, path in places:
        if unknown := schema.unknown_element(TrialSpec, path.split(".")):
            raise document.error(place, unknown)
    for path, values in spec.axes.items():
        if not values:
            raise document.error(("axes", path), "an axis needs at least one value")


def _trial(spec: SweepSpec, document: Document, axes: dict[str, Any], overrides: dict[str, Any]) -> Trial:
    data = copy.deepcopy(spec.trial)
    for path, value in overrides.items():
        try:
            _set(data, path, copy.deepcopy(value))
        except TypeError as error:
            raise document.error(("axes", path), str(error)) from error
    try:
        return Trial(trial_name(axes), axes, schema.validate(TrialSpec, data))
    except ValidationError as error:
        found = [
            (_origin(spec, path, overrides), message) for path, message in schema.messages(error, TrialSpec, data)
        ]
        raise _first_error(document, found) from error


def _origin(spec: SweepSpec, path: tuple[str | int, ...], overrides: dict[str, Any]) -> tuple[str | int, ...]:
    """Where the value at `path` of a trial was written: in an axis, in a variant or in the template."""
    for axis, value in overrides.items():
        if _dotted(path) == axis or _dotted(path).startswith(f"{axis}."):
            if axis in spec.axes and value in spec.axes[axis]:
                return ("axes", axis, spec.axes[axis].index(value), *path[len(axis.split(".")) :])
            for index, variant in enumerate(spec.variants):
                if axis in variant.set and variant.set[axis] == value:
                    return ("variants", index, "set", axis, *path[len(axis.split(".")) :])
    return ("trial", *path)


def trial_name(axes: dict[str, Any]) -> str:
    """What a trial is called in tables: its axes' values under the shortest clear names."""
    parts = [value if path == "variant" else f"{short_name(path)}={_shown(value)}" for path, value in axes.items()]
    return " ".join(parts) or "trial"


def short_name(path: str) -> str:
    """``train.learning_rate`` -> ``learning_rate``; ``train.objective.kind`` -> ``objective``."""
    names = path.split(".")
    return names[-2] if names[-1] == "kind" and len(names) > 1 else names[-1]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_shown(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for element in path:
        text += f"[{element}]" if isinstance(element, int) else f".{element}" if text else element
    return text


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for depth, name in enumerate(parents):
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise TypeError(f"`{'.'.join(parents[: depth + 1])}` is {_shown(data)}, so it has no field {last!r}")
    data[last] = value
