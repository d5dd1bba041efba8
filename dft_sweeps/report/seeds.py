"""The curves of a cell: means over its training seeds, with intervals that hold the spread over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import hypot
from statistics import fmean

import numpy as np

from dft_sweeps.evaluation.intervals import Kind, over_seeds_of_counts, seed_half_width
from dft_sweeps.report.curves import Measured, Sampling, TrialCurves
from dft_sweeps.tracking.names import AVERAGE
from dft_sweeps.tracking.question_results import QuestionResults

Tables = Mapping[str, Mapping[int, Sequence[QuestionResults]]]
"""Training id and step to verdicts by question, where they are recorded."""

Bounds = tuple[float | None, float | None]


def mean_over_seeds(
    name: str,
    values: dict[str, str],
    trials: Sequence[TrialCurves],
    tables: Tables,
    samplings: Iterable[Sampling],
    benchmarks: Sequence[str],
) -> TrialCurves:
    """The cell's curves; those of its one trial as they are, where it has one."""
    if len(trials) == 1:
        return replace(trials[0], name=name, values=values, seeds=tuple(trials))
    of_prefix = {sampling.prefix: sampling.name for sampling in samplings}
    single = [benchmark for benchmark in benchmarks if benchmark != AVERAGE]

    def curve(key: tuple[str, str], paper: bool) -> list[Measured]:
        wanted = single if key[1] == AVERAGE else [key[1]]
        curves = {trial.training_id: (trial.paper if paper else trial.accuracy).get(key, []) for trial in trials}
        found = []
        for step in sorted({point.step for points in curves.values() for point in points}):
            points = {id_: point for id_, points in curves.items() for point in points if point.step == step}
            rows = [_rows(tables.get(id_, {}).get(step, ()), of_prefix[key[0]], wanted, paper) for id_ in points]
            found.append(replace(_mean_point(list(points.values()), rows), of_seeds=len(trials)))
        return found

    keys = list(dict.fromkeys(key for trial in trials for key in trial.accuracy))
    stops = [trial.stopped_at for trial in trials if trial.stopped_at is not None]
    return TrialCurves(
        training_id="",
        name=name,
        status="FINISHED" if all(trial.status == "FINISHED" for trial in trials) else "RUNNING",
        values=values,
        accuracy={key: curve(key, paper=False) for key in keys},
        paper={key: curve(key, paper=True) for key in keys},
        training={key: _mean_curve([trial.training[key] for trial in trials]) for key in trials[0].training},
        edges=next((trial.edges for trial in trials if trial.edges), ()),
        histograms=_mean_histograms(trials),
        seeds=tuple(trials),
        stopped_at=max(stops) if len(stops) == len(trials) else None,
    )


def _rows(
    tables: Sequence[QuestionResults], sampling: str, benchmarks: Sequence[str], paper: bool
) -> list[QuestionResults]:
    """One trial's verdicts on each of the benchmarks, without held-out questions; empty where one is missing."""
    found = {
        table.benchmark: table
        for table in tables
        if table.sampling == sampling and (table.grader.startswith("paper/") if paper else table.own)
    }
    return [found[name].without(found[name].held_out) for name in benchmarks] if found.keys() >= set(benchmarks) else []


def _mean_point(points: Sequence[Measured], rows: Sequence[Sequence[QuestionResults]]) -> Measured:
    """The mean of several seeds' accuracies at one step; `rows` per seed and benchmark."""
    if len(points) == 1 or points[0].step == 0:  # the base model is one policy, measured once
        return replace(points[0], seeds=len(points))
    asked = {tuple((table.benchmark_digest, table.questions) for table in each) for each in rows}
    alike = all(rows) and len(asked) == 1
    selections = [point.selection for point in points if point.selection is not None]
    bounds: list[Bounds] = []
    for kind in ("new_questions", "fixed_list"):
        bounds.append(_from_verdicts(rows, kind) if alike else _from_accuracies(points, kind))
    (low, high), (fixed_low, fixed_high) = bounds
    return Measured(
        step=points[0].step,
        accuracy=fmean(point.accuracy for point in points),
        low=low,
        high=high,
        fixed_low=fixed_low,
        fixed_high=fixed_high,
        selection=fmean(selections) if len(selections) == len(points) else None,
        seeds=len(points),
        by_question=alike,
    )


def _from_verdicts(rows: Sequence[Sequence[QuestionResults]], kind: Kind) -> Bounds:
    counts = []
    for tables in zip(*rows, strict=True):
        right, samples = zip(*(table.counts for table in tables), strict=True)
        counts.append((np.stack(right), np.stack(samples)))
    found = over_seeds_of_counts(counts, max(table.level for tables in rows for table in tables), kind)
    return found.low, found.high


def _from_accuracies(points: Sequence[Measured], kind: Kind) -> Bounds:
    """Without verdicts: t over the seeds' accuracies, joined to the mean of the seeds' own distances to their bounds,
    which several seeds' samples taken together would make narrower."""
    ends = [(p.low, p.high) if kind == "new_questions" else (p.fixed_low, p.fixed_high) for p in points]
    if any(low is None or high is None for low, high in ends):
        return None, None
    mean = fmean(point.accuracy for point in points)
    half = seed_half_width(np.array([point.accuracy for point in points]))
    below = fmean(point.accuracy - (low or 0.0) for point, (low, _) in zip(points, ends, strict=True))
    above = fmean((high or 0.0) - point.accuracy for point, (_, high) in zip(points, ends, strict=True))
    return max(0.0, mean - hypot(below, half)), min(1.0, mean + hypot(above, half))


def _mean_curve(curves: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """At the steps that all seeds have which have begun."""
    begun = [dict(curve) for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, begun))) if begun else []
    return [(step, fmean(curve[step] for curve in begun)) for step in steps]


def _mean_histograms(trials: Sequence[TrialCurves]) -> dict[int, tuple[float, ...]]:
    begun = [trial.histograms for trial in trials if trial.histograms]
    steps = sorted(set.intersection(*map(set, begun))) if begun else []
    return {step: tuple(map(fmean, zip(*(each[step] for each in begun), strict=True))) for step in steps}
