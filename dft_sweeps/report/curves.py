"""A sweep's measurements as tidy data, read from MLflow: what every table and figure is made from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dft_sweeps.spec.expand import short_name, shown
from dft_sweeps.spec.models import BenchmarkSpec, SamplingSpec
from dft_sweeps.tracking import names
from dft_sweeps.tracking.reader import Reader, SweepRow, TrialRow

OBJECTIVE_AXES = ("train.objective.kind", "train.objective")
_TRAINING_KEYS = ("nll", "objective")


@dataclass(frozen=True)
class Measured:
    """Accuracy of one checkpoint on one benchmark; shares in [0, 1]."""

    step: int
    accuracy: float
    low: float | None
    high: float | None
    """95% interval for new questions; None where none was logged."""
    fixed_low: float | None = None
    fixed_high: float | None = None
    """95% interval for other samples on these questions; None where none was logged."""


@dataclass(frozen=True)
class Sampling:
    name: str
    prefix: str
    """First part of its metrics' names."""
    label: str
    """E.g. ``temperature 1, 4 samples per question``."""


@dataclass(frozen=True)
class TrialCurves:
    training_id: str
    name: str
    status: str
    values: dict[str, str]
    """Axis to this trial's value, as shown."""
    accuracy: dict[tuple[str, str], list[Measured]]
    """(sampling prefix, benchmark or ``average``) to the curve, by rising step; by each benchmark's own grader."""
    training: dict[str, list[tuple[int, float]]]
    """``nll`` and ``objective`` to (step, value), by rising step."""
    paper: dict[tuple[str, str], list[Measured]] = field(default_factory=dict)
    """As `accuracy`, by the published harness's grader and as it averages; empty curves where that did not judge."""
    edges: tuple[float, ...] = ()
    """Where the bins of its histograms begin and end, from 0 to 1; none where that was not logged."""
    histograms: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Step, rising, to the share of training targets whose probability lies in each bin."""


@dataclass(frozen=True)
class SweepCurves:
    sweep_id: str
    name: str
    axes: tuple[str, ...]
    """The paths that tell trials apart, the objective's first."""
    samplings: tuple[Sampling, ...]
    benchmarks: tuple[str, ...]
    """``average`` first where there are several benchmarks."""
    trials: tuple[TrialCurves, ...]
    notes: tuple[str, ...]
    """What a reader of any table or figure must know."""
    accuracy_notes: tuple[str, ...]
    """What a reader of accuracies must know besides."""
    graders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Benchmark to ``name/version`` of its graders, its own first; without those of which none is recorded."""
    histogram_notes: tuple[str, ...] = ()
    """What a reader of the target tokens' probabilities must know besides."""

    def levels(self, axis: str) -> list[str]:
        """The values an axis takes: numbers by size, others as the grid lists them."""
        found = list(dict.fromkeys(trial.values[axis] for trial in self.trials))
        return sorted(found, key=float) if all(_is_number(value) for value in found) else found


def collect(reader: Reader, sweep: SweepRow) -> SweepCurves:
    """Reads every curve of a sweep; trials that have not started have empty ones.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    rows = reader.trials(sweep)
    evaluation = yaml.safe_load(reader.spec_text(sweep))["trial"].get("evaluation", {})
    specs = [BenchmarkSpec.model_validate(given) for given in evaluation.get("benchmarks", ())]
    samplings = _samplings(evaluation.get("samplings", {}))
    benchmarks = tuple(spec.name for spec in specs)
    if len(benchmarks) > 1:
        benchmarks = (names.AVERAGE, *benchmarks)
    axes = _telling_axes(rows)
    return SweepCurves(
        sweep_id=sweep.sweep_id,
        name=sweep.name,
        axes=axes,
        samplings=samplings,
        benchmarks=benchmarks,
        trials=tuple(_trial(reader, row, axes, samplings, benchmarks) for row in rows),
        notes=tuple(_notes(rows)),
        accuracy_notes=tuple(_accuracy_notes(specs, reader, rows)),
        graders=_graders(rows, [spec.name for spec in specs]),
        histogram_notes=tuple(_histogram_notes(rows)),
    )


def axis_title(axis: str) -> str:
    """E.g. ``train.learning_rate`` to ``learning rate``."""
    return short_name(axis).replace("_", " ")


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
        values={axis: shown(row.axes[axis]) if axis in row.axes else "-" for axis in axes},
        accuracy={key: _measured(reader, row, *key) for key in keys},
        paper={key: _measured(reader, row, *key, paper=True) for key in keys},
        training={key: _curve(reader, row, names.train_metric(key)) for key in _TRAINING_KEYS},
        edges=edges,
        histograms=_histograms(reader, row, len(edges) - 1),
    )


def _measured(reader: Reader, row: TrialRow, prefix: str, benchmark: str, paper: bool = False) -> list[Measured]:
    values, *bounds = (
        dict(_curve(reader, row, names.eval_metric(prefix, benchmark, name, paper)))
        for name in ("accuracy", *names.BOUNDS)
    )
    return [Measured(step, value, *(bound.get(step) for bound in bounds)) for step, value in values.items()]


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


def _telling_axes(rows: Iterable[TrialRow]) -> tuple[str, ...]:
    """Axes on which trials differ: the objective first, the variant last, others as the spec lists them."""
    rows = list(rows)
    axes = [axis for axis in dict.fromkeys(axis for row in rows for axis in row.axes) if _differs(rows, axis)]
    return tuple(sorted(axes, key=lambda axis: (axis not in OBJECTIVE_AXES, axis == "variant")))


def _differs(rows: Iterable[TrialRow], axis: str) -> bool:
    return len({str(row.axes.get(axis)) for row in rows}) > 1


def _samplings(given: dict[str, Any]) -> tuple[Sampling, ...]:
    found = []
    for name, prefix in names.sampling_prefixes(given).items():
        spec = SamplingSpec.model_validate(given[name])
        parts = [f"temperature {spec.temperature:g}"]
        if spec.top_p < 1:
            parts.append(f"top-p {spec.top_p:g}")
        if spec.samples > 1:
            parts.append(f"{spec.samples} samples per question")
        found.append(Sampling(name, prefix, ", ".join(parts)))
    return tuple(found)


def _notes(rows: Iterable[TrialRow]) -> list[str]:
    rows = list(rows)
    notes = []
    wrong = sorted({float(row.params.get("data.source.wrong_steps", 0)) for row in rows} - {0.0})
    if wrong:
        shares = " and ".join(f"{100 * share:g}%" for share in wrong)
        notes.append(f"Trained on demonstrations with wrong steps ({shares}); wrong steps favour DFT over SFT.")
    missing = [f"{row.name} ({row.status.lower()})" for row in rows if row.status != "FINISHED"]
    if missing:
        notes.append(f"Not finished: {', '.join(missing)}.")
    return notes


def _ungradable(reader: Reader, rows: Iterable[TrialRow], metric: str) -> int:
    """Completions without a verdict, at all steps; those of the base model, which all trials share, once."""
    counts = {
        (row.training_id if step else "base", key, step): value
        for row in rows
        for key in row.metrics
        if key.endswith(f"/{metric}")
        for step, value in _curve(reader, row, key)
    }
    return round(sum(counts.values()))


def _accuracy_notes(benchmarks: Iterable[BenchmarkSpec], reader: Reader, rows: Sequence[TrialRow]) -> list[str]:
    notes = ["Accuracy in percent with 95% intervals, which leave out the spread over seeds."]
    limits = [f"{spec.name} to its first {spec.limit} questions" for spec in benchmarks if spec.limit]
    if limits:
        notes.append(f"Limited: {', '.join(limits)}.")
    for metric, grader in (("ungradable", ""), ("paper_ungradable", " by the grader paper")):
        if ungradable := _ungradable(reader, rows, metric):
            notes.append(f"Completions that could not be graded{grader}, and count as wrong: {ungradable:,}.")
    return notes


def _histogram_notes(rows: Iterable[TrialRow]) -> list[str]:
    found = {row.params.get("evaluation.histogram.samples") for row in rows} - {None}
    return [f"Measured on the targets of {samples} training samples." for samples in found if len(found) == 1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
