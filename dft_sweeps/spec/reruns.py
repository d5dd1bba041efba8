"""What of a stored sweep is run again: from its resolved spec to a sweep and the names of the trials wanted of it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from dft_sweeps.spec import schema, yaml_lines
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.expand import Trial, shown
from dft_sweeps.spec.identity import canonical_json
from dft_sweeps.spec.load import Sweep, load_stored
from dft_sweeps.spec.models import TrainSpec, TrialSpec
from dft_sweeps.spec.searches import space_of

T = TypeVar("T")

SEED = "train.seed"
_CONDITIONS = re.compile(r",(?=\s*[A-Za-z_][\w.]*=)")
"""Between the conditions of a cell: a comma within a value is none."""


def rerun(text: str, name: str, overrides: Sequence[str] = (), seeds: int | None = None) -> Sweep:
    """The sweep of a resolved spec `text`, which errors call `name`.

    Args:
        overrides: as of ``--set``.
        seeds: how many seeds every cell of the sweep shall have.

    Raises:
        SpecError: what `load_stored` raises, or seeds that cannot be added.
    """
    here = Path.cwd()
    sweep = load_stored(text, name, overrides, here)
    return sweep if seeds is None else load_stored(text, name, [*overrides, *_more_seeds(sweep, seeds)], here)


def wanted(sweep: Sweep, cells: Sequence[str] = (), failed: Collection[str] | None = None) -> frozenset[str]:
    """Names of the trials that are wanted of a sweep, of those that are known.

    Args:
        cells: conditions ``path=value,path=value``; a trial is wanted that meets all of one cell.
        failed: names of the trials that failed; only these are wanted.

    Raises:
        SpecError: a cell that no trial is in.
    """
    found = in_cells(sweep.trials, cells) if cells else {trial.name for trial in sweep.trials}
    return frozenset(found if failed is None else found & set(failed))


def in_cells(trials: Sequence[Trial], cells: Sequence[str]) -> set[str]:
    """Names of the trials that are in one of the cells.

    Raises:
        SpecError: no trial is in one of them; says what there is.
    """
    known = {trial.name: trial.spec.model_dump(mode="json") for trial in trials}
    found: set[str] = set()
    for cell in cells:
        left = list(trials)
        for condition in _CONDITIONS.split(cell):
            path, equals, text = (part.strip() for part in condition.partition("="))
            if not equals or not path:
                raise SpecError("a cell has the form path=value,path=value", f"--cell {cell}")
            _check_path(trials, path, cell)
            met = [trial for trial in trials if _meets(_values(trial, known[trial.name], path), text, cell)]
            if not met:
                raise SpecError(_no_such_value(trials, known, path, text), f"--cell {cell}")
            left = [trial for trial in left if trial in met]
        if not left:
            raise SpecError("trials meet each of the conditions, but none meets all of them", f"--cell {cell}")
        found |= {trial.name for trial in left}
    return found


def of_figure(named: Iterable[tuple[str, T]], figure: int) -> list[T]:
    """Of sweeps with their names, the newest first, those that make a figure of the paper, the oldest first: the newest
    of each name that begins with it, e.g. ``figure3_learning_rate``.

    Raises:
        SpecError: none does.
    """
    newest: dict[str, T] = {}
    for name, sweep in named:
        newest.setdefault(name, sweep)
    found = [sweep for name, sweep in newest.items() if re.match(rf"figure[-_]?{figure}(?!\d)", name)]
    if not found:
        others = f", as none of these do: {shorten(', '.join(newest), 200)}" if newest else "; there are no sweeps yet"
        raise SpecError(f"sweeps of a figure have names that begin with figure{figure}{others}", f"--figure {figure}")
    return found[::-1]


def _check_path(trials: Sequence[Trial], path: str, cell: str) -> None:
    axes = dict.fromkeys(axis for trial in trials for axis in trial.axes)
    if path in axes or (unknown := schema.unknown_element(TrialSpec, path.split("."))) is None:
        return
    listed = "; ".join(f"{axis}: {_listed(trial.axes.get(axis) for trial in trials)}" for axis in axes)
    raise SpecError(f"{unknown}. The sweep's axes are {listed or 'none'}", f"--cell {cell}")


def _values(trial: Trial, spec: dict[str, Any], path: str) -> list[Any]:
    """What stands at the path in a trial: as the axis has it, and with every default; none where it has no such
    field."""
    found = [trial.axes[path]] if path in trial.axes else []
    value: Any = spec
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return found
        value = value[name]
    return [*found, value]


def _meets(values: Sequence[Any], text: str, cell: str) -> bool:
    """Whether one of the values is what `text` says, in whatever spelling."""
    wanted, _ = yaml_lines.parse(text, lambda line: f"--cell {cell}")
    try:
        spelling = canonical_json(wanted)
    except TypeError:  # .nan and .inf, which no field takes
        return False
    return any(value == text or canonical_json(value) == spelling for value in values)


def _no_such_value(trials: Sequence[Trial], known: dict[str, dict[str, Any]], path: str, text: str) -> str:
    values = (value for trial in trials for value in _values(trial, known[trial.name], path)[:1])
    return f"no trial of the sweep has {path} {text}; there are {_listed(values) or 'none with that field'}"


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(shown(value) for value in values if value is not None))


def _more_seeds(sweep: Sweep, seeds: int) -> list[str]:
    """What to set so that every cell has so many seeds: those it has, and then the next whole numbers."""
    place = f"--seeds {seeds}"
    spec = sweep.spec
    if any(SEED in variant.set for variant in spec.variants):
        raise SpecError(f"a variant of the sweep sets {SEED} itself", place)
    if SEED in space_of(spec.search):
        raise SpecError(f"the sweep's search draws {SEED} itself", place)
    if sweep.spec.search.kind == "tpe":
        raise SpecError(
            "a TPE search proposes other points for every seed, so that its cells would not have them; give the points "
            "that are wanted, as `variants` of a sweep, an axis of seeds",
            place,
        )
    own = spec.trial.get("train", {}).get("seed", TrainSpec.model_fields["seed"].default)
    has = list(spec.axes.get(SEED, (own,)))
    if seeds < len(has):
        raise SpecError(f"the sweep has {len(has)} seeds already: {_listed(has)}", place)
    has += [max(has) + 1 + index for index in range(seeds - len(has))]
    return [f"axes.{SEED}={has}"] if len(has) > 1 else []
