"""From a template, axes, variants and a search to trials."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from dft_sweeps.spec import schema, searches
from dft_sweeps.spec.document import Document, set_at
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SweepSpec, TrialSpec
from dft_sweeps.spec.points import Point
from dft_sweeps.spec.presets import Preset, apply_preset
from dft_sweeps.spec.rungs import with_rungs
from dft_sweeps.spec.schema import Path
from dft_sweeps.spec.yaml_lines import dotted

MOST_TRIALS = 10_000

Setting = tuple[Any, Path]
"""A value, and its place in the spec."""
Arm = tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One cell of the grid, or one point of a search in one."""

    name: str
    """The values that tell it from the other trials, e.g. ``objective=dft learning_rate=3e-4``."""
    axes: dict[str, Any]
    """Dotted path (or ``variant``) to this trial's value, in the order of the spec."""
    spec: TrialSpec
    origins: dict[str, Path]
    """Dotted path of whatever an axis or a variant set, to the place of its value in the spec."""
    preset: Preset
    point: Point = field(default_factory=dict)
    """Those of its axes that a search drew or proposed."""
    arm: Arm = ()
    """Values, as shown, of its other axes and of its variant: what a search is made for apart."""

    def place(self, path: Path) -> Path:
        """Where the value at `path` of this trial is written: in an axis, in a variant or in the template."""
        for set_path, origin in self.origins.items():
            names = tuple(set_path.split("."))
            if path[: len(names)] == names:
                return (*origin, *path[len(names) :])
        return ("trial", *path)

    def error(self, document: Document, path: Path, message: str) -> SpecError:
        """A mistake at `path` of this trial; names the trial where that may be right in the others, and the preset
        where it gave a value that the message is about."""
        here = dotted(path)
        if any(set_path.startswith(f"{here}.") for set_path in self.origins):
            message = f"{message} (in the trial {self.name!r})"
        for given, value in self.preset.values.items():
            if given == here or (given.startswith(f"{here}.") and given.split(".")[-1] in message):
                message = f"{message} (the preset {self.preset.name!r} sets {given} to {shown(value)})"
        return document.error(self.place(path), message)


def expand(
    spec: SweepSpec, document: Document, proposed: Mapping[Arm, Sequence[Point]] | None = None
) -> tuple[Trial, ...]:
    """Every combination of the axes' values, for every variant, in the order of the spec; with a search, all of them at
    its first point, then at its second, and so on.

    A variant's own setting of an axis stands for all values of that axis.

    Args:
        proposed: points of a search beyond those that its seed gives, as many for every arm.

    Raises:
        SpecError: an invalid trial, two equal trials, or too few points in a search's space.
    """
    cells = list(_cells(spec))
    first = searches.first_points(spec.search, document)
    trials = [_trial(spec, document, *cell, point) for point in first for cell in cells]
    further = proposed or {}
    for number in range(max(map(len, further.values()), default=0)):
        trials += [_trial(spec, document, *cell, further[arm_of(cell[0])][number]) for cell in cells]
    _check_distinct(spec, document, trials)
    return tuple(trials)


def probes(spec: SweepSpec, document: Document) -> tuple[Trial, ...]:
    """A trial for every value of a choice and for both ends of every other dimension of a search, in every cell: what a
    proposal is made of. Raises as `expand`, at the value that is wrong or makes the trials of one before it."""
    found: dict[tuple[Arm, str, str], Trial] = {}
    for path, value, place in searches.extremes(spec.search):
        point = searches.centre(spec.search) | {path: value}
        for cell in _cells(spec):
            trial = _trial(spec, document, *cell, point, {path: place})
            other = found.setdefault((trial.arm, path, trial.spec.model_dump_json()), trial)
            if other is not trial:
                values = f"{shown(other.point[path])} and {shown(value)}"
                raise document.error(place, f"the values {values} make the same trials")
    return tuple(found.values())


def check_settings(spec: SweepSpec, document: Document) -> None:
    """What can be said of axes, variants, a search's space and the template before any trial is made of them.

    Raises:
        SpecError: an unknown or empty axis, an axis, variant or search that sets what is measured, variants of one
            name, a mistake in the template that no axis can put right, or too many trials.
    """
    _check_variants(spec, document)
    _check_axes(spec, document)
    _check_template(spec, document)


def _cells(spec: SweepSpec) -> Iterator[tuple[dict[str, Any], dict[str, Setting]]]:
    """The axes of each cell, and what sets its fields."""
    for index, variant in enumerate(spec.variants or (None,)):
        own = variant.set.items() if variant else ()
        fixed: dict[str, Setting] = {path: (value, ("variants", index, "set", path)) for path, value in own}
        free = [[fixed[path]] if path in fixed else _values(spec, path) for path in spec.axes]
        for combination in itertools.product(*free):
            chosen = dict(zip(spec.axes, combination, strict=True))
            axes: dict[str, Any] = {"variant": variant.name} if variant else {}
            yield axes | {path: value for path, (value, _) in chosen.items()}, fixed | chosen


def _values(spec: SweepSpec, path: str) -> list[Setting]:
    return [(value, ("axes", path, index)) for index, value in enumerate(spec.axes[path])]


def arm_of(axes: Mapping[str, Any]) -> Arm:
    """Args: `axes`: of a trial, without those of a search."""
    return tuple(shown(value) for value in axes.values())


def _check_variants(spec: SweepSpec, document: Document) -> None:
    for name, count in Counter(variant.name for variant in spec.variants).items():
        if count > 1:
            index = max(i for i, variant in enumerate(spec.variants) if variant.name == name)
            raise document.error(("variants", index, "name"), f"{count} variants are called {name!r}")


def _check_axes(spec: SweepSpec, document: Document) -> None:
    axes: list[tuple[Path, str]] = [(("axes", path), path) for path in spec.axes]
    axes += [(("search", "space", path), path) for path in searches.space_of(spec.search)]
    for index, variant in enumerate(spec.variants):
        set_here: list[tuple[Path, str]] = [(("variants", index, "set", path), path) for path in variant.set]
        _check_paths([*axes, *set_here], document)
    _check_paths(axes, document)
    searches.check_space(spec, document)
    for path, values in spec.axes.items():
        if not values:
            raise document.error(("axes", path), "an axis needs at least one value")
        spellings = [json.dumps(value, sort_keys=True) for value in values]
        for index, spelling in enumerate(spellings):
            if spelling in spellings[:index]:
                raise document.error(("axes", path, index), f"the value {spelling} is given twice")
    sizes = {path: len(values) for path, values in spec.axes.items()}
    fixed = [variant.set for variant in spec.variants] or [{}]
    count = sum(math.prod(size for path, size in sizes.items() if path not in ours) for ours in fixed)
    if count > MOST_TRIALS:
        raise document.error(("axes",), f"axes and variants make {count:,} trials; at most {MOST_TRIALS:,} are planned")
    searches.check_size(spec, document, count, MOST_TRIALS)


def _check_paths(places: Sequence[tuple[Path, str]], document: Document) -> None:
    for place, path in places:
        if path.split(".")[0] == "evaluation":
            raise document.error(
                place,
                "the trials of a sweep are compared on the same measurements, so no axis, variant or search can change "
                "them; only `trial.evaluation` says what is measured",
            )
        if unknown := schema.unknown_element(TrialSpec, path.split(".")):
            raise document.error(place, unknown)
        for _, other in places:
            if path.startswith(f"{other}."):
                raise document.error(place, f"`{other}` is set too, and holds this field; set it in one of the two")


def _check_template(spec: SweepSpec, document: Document) -> None:
    """Finds mistakes that axes and variants would cover up, but for what they may give or put right."""
    try:
        schema.validate(TrialSpec, spec.trial)
    except ValidationError as error:
        excused = {"missing", "union_tag_not_found", "value_error"}
        found = schema.messages(error, TrialSpec, spec.trial, excused)
        if found:
            raise first_error(document, [(("trial", *path), message) for path, message in found]) from error


def _trial(
    spec: SweepSpec,
    document: Document,
    axes: Mapping[str, Any],
    settings: Mapping[str, Setting],
    point: Point,
    places: Mapping[str, Path] | None = None,
) -> Trial:
    """Args: `places`: of those values of the point that have one of their own."""
    data = copy.deepcopy(spec.trial)
    known = {path: ("search", "space", path) for path in point} | dict(places or {})
    settings = {**settings, **{path: (value, known[path]) for path, value in point.items()}}
    for path, (value, origin) in settings.items():
        try:
            set_at(data, path.split("."), copy.deepcopy(value))
        except TypeError as error:
            raise document.error(origin, str(error)) from error
    every = {**axes, **point}
    origins = {path: origin for path, (_, origin) in settings.items()}
    preset = apply_preset(data, spec.execution.gpus_per_worker)
    try:
        made = with_rungs(schema.validate(TrialSpec, data), spec.scheduler)
    except ValidationError as error:
        found = schema.messages(error, TrialSpec, data)
        located = Trial(trial_name(every), every, TrialSpec.model_construct(), origins, preset)
        [first, *more] = [located.error(document, path, message) for path, message in found]
        raise _and_more(first, len(more)) from error
    return Trial(trial_name(every), every, made, origins, preset, point, arm_of(axes))


def _check_distinct(spec: SweepSpec, document: Document, trials: Sequence[Trial]) -> None:
    contents: dict[str, Trial] = {}
    names: dict[str, Trial] = {}
    for trial in trials:
        content = trial.spec.model_dump_json()
        if content in contents or trial.name in names:
            what = "are the same" if content in contents else "would have the same name"
            other = contents.get(content) or names[trial.name]
            place: Path = ("axes",) if not trial.point else ("search", "space")
            if trial.axes.get("variant") != other.axes.get("variant"):
                place = ("variants", [variant.name for variant in spec.variants].index(trial.axes["variant"]))
            raise document.error(place, f"two trials {what}: {other.name!r} and {trial.name!r}")
        contents[content] = names[trial.name] = trial


def first_error(document: Document, found: Sequence[tuple[Path, str]]) -> SpecError:
    """The first mistake found, and how many more there are."""
    (path, message), *more = found
    return _and_more(document.error(path, message), len(more))


def _and_more(error: SpecError, count: int) -> SpecError:
    return SpecError(f"{error} (and {count} more)") if count else error


def trial_name(axes: Mapping[str, Any]) -> str:
    """What a trial is called in tables: its axes' values under the shortest clear names."""
    short = Counter(short_name(path) for path in axes)
    parts = [
        value if path == "variant" else f"{short_name(path) if short[short_name(path)] == 1 else path}={shown(value)}"
        for path, value in axes.items()
    ]
    return " ".join(parts) or "trial"


def short_name(path: str) -> str:
    """``train.learning_rate`` -> ``learning_rate``; ``train.objective.kind`` -> ``objective``."""
    names = path.split(".")
    return names[-2] if names[-1] == "kind" and len(names) > 1 else names[-1]


def shown(value: Any) -> str:
    """An axis's value for people, in full: ``{"kind": "power", "alpha": 0.5}`` as ``power(alpha=0.5)``, ``{"kind":
    "dft"}`` as ``dft``, 0.0003 as ``3e-4``, 0.05 as ``0.05``, True as ``true``."""
    if isinstance(value, dict):
        rest = ", ".join(f"{key}={shown(item)}" for key, item in value.items() if key != "kind")
        return str(value.get("kind", "")) + (f"({rest})" if rest or "kind" not in value else "")
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:
            return f"{Decimal(repr(value)):e}"
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
