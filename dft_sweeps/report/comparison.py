"""Trials compared question by question, from what MLflow holds: differences, intervals, corrected p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan

from dft_sweeps.evaluation.paired import Rows, compare_average, holm
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.tracking.names import AVERAGE
from dft_sweeps.tracking.question_results import QuestionResults
from dft_sweeps.tracking.reader import Reader, TrialRow


@dataclass(frozen=True)
class Side:
    """A trial at one step, judged by one grader per benchmark, under one sampling."""

    trial: str
    training_id: str
    step: int
    results: tuple[QuestionResults, ...]


@dataclass(frozen=True)
class Difference:
    """Accuracy of A minus that of B on one benchmark or the average; shares in [-1, 1]."""

    a: str
    b: str
    step_a: int
    step_b: int
    sampling: str
    benchmark: str
    grader: str
    accuracy_a: float
    accuracy_b: float
    difference: float
    ci_low: float
    ci_high: float
    """95%, for new questions."""
    fixed_low: float
    fixed_high: float
    """95%, for other samples on the same questions."""
    p_value: float
    """Two-sided sign-flip test over questions."""
    p_holm: float
    """Corrected for all comparisons made together."""


def side(reader: Reader, trial: TrialRow, step: int | None, sampling: str | None, paper: bool) -> Side:
    """What a trial measured at a step, by default its last one; under a sampling, by default the first.

    Raises:
        SpecError: that was not measured, or is not recorded question by question; says what is.
    """
    steps = reader.evaluated_steps(trial.run_id) if trial.run_id else []
    if not steps:
        raise SpecError(f"the trial {trial.name!r} ({trial.status.lower()}) has no results question by question")
    if step is not None and step not in steps:
        raise SpecError(f"the trial {trial.name!r} was not evaluated at step {step}; it was at {_listed(steps)}")
    assert trial.run_id is not None
    at = steps[-1] if step is None else step
    tables = reader.question_results(trial.run_id, at)
    samplings = list(dict.fromkeys(table.sampling for table in tables))
    if sampling is not None and sampling not in samplings:
        raise SpecError(f"no sampling {sampling!r} in the trial {trial.name!r}; it has {_listed(samplings)}")
    chosen = sampling or samplings[0]
    wanted = [
        table
        for table in tables
        if table.sampling == chosen and (table.grader.startswith("paper/") if paper else table.own)
    ]
    if not wanted:
        raise SpecError(f"the grader paper judged none of the benchmarks of the trial {trial.name!r}")
    return Side(trial.name, trial.training_id, at, tuple(wanted))


def compare_all(pairs: Sequence[tuple[Side, Side]]) -> tuple[list[Difference], list[str]]:
    """Differences of every pair on every benchmark that both sides have, and on their average; and what could not be
    compared, in words. p-values are corrected over all of them together.

    Raises:
        SpecError: there is nothing that both sides of any pair have.
    """
    found: list[Difference] = []
    notes: list[str] = []
    for a, b in pairs:
        if a.results[0].sampling != b.results[0].sampling:
            raise SpecError(
                f"the first sampling is {a.results[0].sampling!r} of {a.trial} and {b.results[0].sampling!r} of "
                f"{b.trial}; name the one to compare",
                "--sampling",
            )
        both, left_out = _in_common(a, b)
        notes += left_out
        found += [_difference(a, b, [one], one[0].benchmark) for one in both]
        if len(both) > 1:
            found.append(_difference(a, b, both, AVERAGE))
    if not found:
        raise SpecError("; ".join(["there is nothing to compare", *dict.fromkeys(notes)]))
    corrected = holm([each.p_value for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, corrected, strict=True)], list(dict.fromkeys(notes))


Common = list[tuple[QuestionResults, QuestionResults]]


def _in_common(a: Side, b: Side) -> tuple[Common, list[str]]:
    others = {table.benchmark: table for table in b.results}
    both: Common = []
    notes = [
        f"{name} was measured of {b.trial} alone" for name in others if name not in {t.benchmark for t in a.results}
    ]
    for table in a.results:
        other = others.get(table.benchmark)
        if other is None:
            notes.append(f"{table.benchmark} was measured of {a.trial} alone")
        elif table.benchmark_digest != other.benchmark_digest:
            notes.append(f"{table.benchmark} has other questions in {a.trial} than in {b.trial}")
        elif table.grader != other.grader:
            notes.append(f"{table.benchmark} was judged by {table.grader} in {a.trial}, {other.grader} in {b.trial}")
        else:
            both.append((table, other))
    return both, notes


def _difference(a: Side, b: Side, tables: Common, benchmark: str) -> Difference:
    rows: list[tuple[Rows, Rows]] = [(one.correct, other.correct) for one, other in tables]
    new, fixed = compare_average(rows), compare_average(rows, kind="fixed_list")
    accuracies = [sum(sum(table.right) / len(table.right) / table.samples for table in each) / len(tables)
                  for each in zip(*tables, strict=True)]  # fmt: skip
    return Difference(
        a=a.trial,
        b=b.trial,
        step_a=a.step,
        step_b=b.step,
        sampling=tables[0][0].sampling,
        benchmark=benchmark,
        grader=" and ".join(dict.fromkeys(one.grader for one, _ in tables)),
        accuracy_a=accuracies[0],
        accuracy_b=accuracies[1],
        difference=new.difference,
        ci_low=new.low,
        ci_high=new.high,
        fixed_low=fixed.low,
        fixed_high=fixed.high,
        p_value=new.p_value,
        p_holm=nan,
    )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
