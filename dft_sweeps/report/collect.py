"""Reads a sweep's measurements from MLflow."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml

from dft_sweeps.report import notes
from dft_sweeps.report.cells import Cell, cells
from dft_sweeps.report.curves import Dimension, Measured, Sampling, SweepCurves, TrialCurves
from dft_sweeps.report.seeds import mean_over_seeds
from dft_sweeps.spec.expand import shown
from dft_sweeps.spec.models import EvaluationSpec
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader, SweepRow, TrialRow

OBJECTIVE_AXES = ("train.objective.kind", "train.objective")
_TRAINING_KEYS = ("nll", "objective")


def collect(reader: Reader, sweep: SweepRow) -> SweepCurves:
    """Reads every curve of a sweep; trials that have not started have empty ones.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    rows = reader.trials(sweep)
    text = reader.spec_text(sweep)
    spec = yaml.safe_load(text)
    evaluation = EvaluationSpec.model_validate(spec["trial"]["evaluation"])
    samplings = _samplings(evaluation)
    single = [spec.name for spec in evaluation.benchmarks]
    benchmarks = (names.AVERAGE, *single) if len(single) > 1 else tuple(single)
    grouped = cells(rows, text)
    several = len(grouped) < len(rows)
    trial_axes = _telling_axes([row.axes for row in rows])
    axes = _telling_axes([cell.axes for cell in grouped]) if several else trial_axes
    trials = {row.training_id: _trial(reader, row, trial_axes, samplings, benchmarks) for row in rows}
    means = _means(reader, grouped, trials, axes, samplings, benchmarks) if several else ()
    return SweepCurves(
        sweep_id=sweep.sweep_id,
        name=sweep.name,
        axes=axes,
        samplings=samplings,
        benchmarks=benchmarks,
        trials=tuple(trials.values()),
        notes=tuple(notes.of_trials(rows)),
        accuracy_notes=(
            *notes.of_accuracies(evaluation, reader, rows, means),
            *notes.of_verdicts(evaluation, spec.get("scheduler", {})),
        ),
        graders=_graders(rows, single),
        histogram_notes=tuple(notes.of_histograms(rows)),
        means=means,
        trial_axes=trial_axes if several else (),
        selection_share=evaluation.selection_share,
        searched=dimensions(spec.get("search", {}), axes),
    )


def dimensions(search: Mapping[str, Any], axes: Collection[str]) -> tuple[Dimension, ...]:
    """Of a search, as the stored spec has it, the dimensions in which trials differ."""
    return tuple(
        Dimension(path, domain["kind"], tuple(float(domain[end]) for end in ("low", "high") if end in domain))
        for path, domain in search.get("space", {}).items()
        if path in axes
    )


def _trial(
    reader: Reader,
    row: TrialRow,
    axes: Iterable[str],
    samplings: Iterable[Sampling],
    benchmarks: Iterable[str],
) -> TrialCurves:
    keys = [(sampling.prefix, benchmark) for sampling in samplings for benchmark in benchmarks]
    edges = tuple(json.loads(row.params.get("evaluation.histogram.edges", "[]")))
    return TrialCurves(
        training_id=row.training_id,
        name=row.name,
        status=row.status,
        values=_values(row.axes, axes),
        accuracy={key: _measured(reader, row, *key) for key in keys},
        paper={key: _measured(reader, row, *key, paper=True) for key in keys},
        training={key: _curve(reader, row, names.train_metric(key)) for key in _TRAINING_KEYS},
        edges=edges,
        histograms=_histograms(reader, row, len(edges) - 1),
        stopped_at=row.stopped_at,
    )


def _measured(reader: Reader, row: TrialRow, prefix: str, benchmark: str, paper: bool = False) -> list[Measured]:
    values, *bounds = (
        dict(_curve(reader, row, names.eval_metric(prefix, benchmark, name, paper)))
        for name in ("accuracy", *names.BOUNDS)
    )
    key = names.eval_metric(prefix, benchmark, "selection_accuracy")
    held_out = {} if paper else dict(_curve(reader, row, key))
    return [
        Measured(step, value, *(bound.get(step) for bound in bounds), selection=held_out.get(step))
        for step, value in values.items()
    ]


def _means(
    reader: Reader,
    grouped: Iterable[Cell],
    trials: dict[str, TrialCurves],
    axes: Iterable[str],
    samplings: Sequence[Sampling],
    benchmarks: Sequence[str],
) -> tuple[TrialCurves, ...]:
    found = []
    for cell in grouped:
        runs = {row.training_id: row.run_id for row in cell.trials if row.run_id and len(cell.trials) > 1}
        tables = {
            id_: {step: reader.question_results(run, step) for step in reader.evaluated_steps(run)}
            for id_, run in runs.items()
        }
        of_cell = [trials[row.training_id] for row in cell.trials]
        values = _values(cell.axes, axes)
        found.append(mean_over_seeds(cell.name, values, of_cell, tables, samplings, benchmarks))
    return tuple(found)


def _values(given: Mapping[str, Any], axes: Iterable[str]) -> dict[str, str]:
    return {axis: shown(given[axis]) if axis in given else "-" for axis in axes}


def _graders(rows: Iterable[TrialRow], benchmarks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Trials of equal measures have equal graders."""
    params = {key: value for row in rows for key, value in row.params.items()}
    recorded = {name: params.get(names.graders_param(name)) for name in benchmarks}
    return {name: tuple(graders.split(", ")) for name, graders in recorded.items() if graders}


def _histograms(reader: Reader, row: TrialRow, count: int) -> dict[int, tuple[float, ...]]:
    """A step that is being logged, and lacks one of `count` bins as yet, is left out."""
    bins = [dict(_curve(reader, row, names.probability_bin(index))) for index in range(count)]
    steps = sorted(set.intersection(*map(set, bins))) if bins else []
    return {step: tuple(shares[step] for shares in bins) for step in steps}


def _curve(reader: Reader, row: TrialRow, key: str) -> list[tuple[int, float]]:
    return reader.curve(row.run_id, key) if row.run_id and key in row.metrics else []


def _telling_axes(given: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Axes on which trials or cells differ: the objective first, the variant last, others as the spec lists them."""
    axes = [axis for axis in dict.fromkeys(axis for each in given for axis in each) if _differs(given, axis)]
    return tuple(sorted(axes, key=lambda axis: (axis not in OBJECTIVE_AXES, axis == "variant")))


def _differs(given: Sequence[Mapping[str, Any]], axis: str) -> bool:
    return len({str(each.get(axis)) for each in given}) > 1


def _samplings(evaluation: EvaluationSpec) -> tuple[Sampling, ...]:
    found = []
    for name, prefix in names.sampling_prefixes(evaluation.samplings).items():
        spec = evaluation.samplings[name]
        parts = [f"temperature {spec.temperature:g}"]
        if spec.top_p < 1:
            parts.append(f"top-p {spec.top_p:g}")
        if spec.samples > 1:
            most = "at most " if spec.adaptive or evaluation.adaptive else ""
            between = f" ({spec.samples_between} between key steps)" if spec.samples_between else ""
            parts.append(f"{most}{spec.samples} samples per question{between}")
        found.append(Sampling(name, prefix, ", ".join(parts)))
    return tuple(found)
