"""What is compared: a trial, a cell of several training seeds or a stored checkpoint, with its verdicts by question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dft_sweeps.report.cells import Cell
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.reader import Reader

Run = tuple[QuestionResults, ...]
"""Tables of one set of weights under one sampling, by one grader per benchmark."""

MUST_AGREE = ("temperature", "top_p", "max_new_tokens")
"""Settings of sampling in which two sides must not differ; samples and seeds may."""


@dataclass(frozen=True)
class Side:
    name: str
    step: int | None
    """None for a checkpoint that was evaluated on its own."""
    samplings: Mapping[str, tuple[Run, ...]]
    """By name, or by description (`describe`) for a checkpoint: the tables of each training seed."""
    named: bool
    """Whether the samplings have names of the user's."""
    notes: tuple[str, ...] = ()

    def settings(self, sampling: str) -> Mapping[str, Any] | None:
        """The SamplingSpec; None where an earlier version did not record it."""
        return self.samplings[sampling][0][0].settings


def trial_side(reader: Reader, cell: Cell, step: int | None, paper: bool) -> Side:
    """What a trial, or the seeds of a cell, measured at a step: by default at the last that all have which have any.

    Args:
        paper: by the published harness's grader, not each benchmark's own.

    Raises:
        SpecError: that was not measured, or is not recorded question by question; says what is.
    """
    evaluated = [(trial, reader.evaluated_steps(trial.run_id) if trial.run_id else []) for trial in cell.trials]
    begun = [(trial, steps) for trial, steps in evaluated if steps]
    what = f"trial {cell.name!r}" if len(cell.trials) == 1 else f"cell {cell.name!r}"
    if not begun:
        raise SpecError(f"the {what} ({cell.trials[0].status.lower()}) has no results question by question")
    common = sorted(set.intersection(*(set(steps) for _, steps in begun)))
    if step is not None and step not in common:
        raise SpecError(f"the {what} was not evaluated at step {step}; it was at {_listed(common)}")
    if not common:
        raise SpecError(f"the seeds of the {what} have no evaluated step in common")
    at = common[-1] if step is None else step
    absent = [f"{trial.name} ({trial.status.lower()})" for trial, steps in evaluated if not steps]
    notes = [f"{each} has no results question by question and is left out" for each in absent]
    stopped = [f"{trial.name} (step {trial.stopped_at})" for trial, _ in begun if trial.stopped_at is not None]
    if stopped and step is None:
        notes.append(f"stopped by its sweep's scheduler, so that this is not its last step: {', '.join(stopped)}")
    if step is None and any(steps[-1] != at for _, steps in begun):
        notes.append(f"the seeds of {cell.name} have reached different steps, of which {at} is the last that all have")
    runs = [reader.question_results(trial.run_id, at) for trial, _ in begun if trial.run_id]
    samplings: dict[str, tuple[Run, ...]] = {}
    for name in dict.fromkeys(table.sampling for table in runs[0]):
        tables = [tuple(table for table in run if table.sampling == name and _judged(table, paper)) for run in runs]
        if all(tables):
            samplings[name] = _distinct(tables)
    if not samplings:
        raise SpecError(f"the grader paper judged none of the benchmarks of the {what}")
    return Side(cell.name, at, samplings, named=True, notes=tuple(notes))


def choose_samplings(a: Side, b: Side, wanted: str | None) -> tuple[str, str]:
    """Which sampling of each side to compare.

    Trials are compared under the sampling of the name wanted, by default their first. Otherwise under the one that both
    sides have: of equal settings, else of equal `MUST_AGREE`; a checkpoint's is wanted by the beginning of its
    description, or by the name that a trial on the other side gives an equal one.

    Raises:
        SpecError: there is no such sampling, or several; lists them.
    """
    if a.named and b.named:
        chosen = tuple(_by_name(side, wanted) for side in (a, b))
        if chosen[0] != chosen[1]:
            raise SpecError(
                f"the first sampling is {chosen[0]!r} of {a.name} and {chosen[1]!r} of {b.name}; name the one to "
                "compare",
                "--sampling",
            )
        return chosen[0], chosen[1]
    known = f"{a.name} has {_listed(map(repr, a.samplings))}; {b.name} has {_listed(map(repr, b.samplings))}"
    of_a, of_b = _fitting(a, wanted), _fitting(b, wanted)
    if not of_a and not of_b:
        raise SpecError(f"no sampling {wanted!r}: {known}", "--sampling")
    pairs = [(x, y) for x in of_a or a.samplings for y in of_b or b.samplings
             if disagreement(a.settings(x), b.settings(y)) is None]  # fmt: skip
    equal = [(x, y) for x, y in pairs if _but_context(a.settings(x)) == _but_context(b.settings(y))]
    found = equal or pairs
    if not found:
        raise SpecError(f"no sampling that both sides have: {known}", "--sampling")
    if len(found) > 1:
        raise SpecError(f"several samplings that both sides have; name the one to compare: {known}", "--sampling")
    return found[0]


def disagreement(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> str | None:
    """How two ways to sample differ where they must not, in words; None where they do not, or it is not known."""
    if a is None or b is None:
        return None
    words = [f"{name} {a[name]:g} and {b[name]:g}" for name in MUST_AGREE if a[name] != b[name]]
    return ", ".join(words) or None


def describe(settings: Mapping[str, Any]) -> str:
    """E.g. ``16 samples at temperature 1``; names what is not at its default besides, but for the context, which
    benchmarks of one evaluation need not share: it is recorded where it cuts completions off."""
    adaptive = settings.get("adaptive")
    count = f"{settings['samples']} sample{'s' * (settings['samples'] > 1)}"
    parts = [f"{'at most ' if adaptive else ''}{count} at temperature {settings['temperature']:g}"]
    parts += [f"until within {adaptive['half_width']:g} points"] if adaptive else []
    parts += [f"top-p {settings['top_p']:g}"] if settings["top_p"] < 1 else []
    parts += [f"{settings['max_new_tokens']} new tokens"] if settings["max_new_tokens"] != 4096 else []
    parts += [f"in {settings['dtype']}"] if settings.get("dtype") else []
    parts += [f"seed {settings['seed']}"] if settings["seed"] else []
    return ", ".join(parts)


def _judged(table: QuestionResults, paper: bool) -> bool:
    return table.grader.startswith("paper/") if paper else table.own


def _distinct(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Seeds that share their evaluations, as all do of the base model, are one."""
    return tuple({tuple(table.evaluation_id for table in run): run for run in runs}.values())


def _by_name(side: Side, wanted: str | None) -> str:
    if wanted is not None and wanted not in side.samplings:
        raise SpecError(f"no sampling {wanted!r} in the trial {side.name!r}; it has {_listed(side.samplings)}")
    return wanted or next(iter(side.samplings))


def _fitting(side: Side, wanted: str | None) -> list[str]:
    if wanted is None or side.named:
        return [name for name in side.samplings if wanted in (None, name)]
    return [wanted] if wanted in side.samplings else [name for name in side.samplings if name.startswith(wanted)]


def _but_context(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (settings or {}).items() if name not in ("context", "samples_between")}


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
