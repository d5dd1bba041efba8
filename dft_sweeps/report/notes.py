"""What a reader of a sweep's tables and figures must know besides, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dft_sweeps.report.curves import TrialCurves
from dft_sweeps.spec.models import EvaluationSpec
from dft_sweeps.tracking.reader import Reader, TrialRow


def of_trials(rows: Iterable[TrialRow]) -> list[str]:
    rows = list(rows)
    notes = []
    wrong = sorted({float(row.params.get("data.source.wrong_steps", 0)) for row in rows} - {0.0})
    if wrong:
        shares = " and ".join(f"{100 * share:g}%" for share in wrong)
        notes.append(f"Trained on demonstrations with wrong steps ({shares}); wrong steps favour DFT over SFT.")
    if stopped := [row for row in rows if row.stopped_at is not None]:
        notes.append(f"Stopped by the scheduler before their last step: {_stopped(stopped)}.")
    missing = [f"{row.name} ({row.status.lower()})" for row in rows if row.status != "FINISHED"]
    if missing:
        notes.append(f"Not finished: {', '.join(missing)}.")
    return notes


MOST_NAMED = 12


def _stopped(rows: Iterable[TrialRow]) -> str:
    """E.g. ``at step 20 objective=sft and objective=dft; at step 40 objective=power``."""
    by_step = defaultdict(list)
    for row in rows:
        by_step[row.stopped_at or 0].append(row.name)
    parts = []
    for step, names in sorted(by_step.items()):
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        parts.append(f"at step {step} {', '.join(names[:MOST_NAMED])}{more}")
    return "; ".join(parts)


def of_verdicts(evaluation: EvaluationSpec, scheduler: Mapping[str, Any]) -> list[str]:
    """Args: `scheduler`: as the spec has it."""
    if scheduler.get("kind", "fifo") == "fifo":
        return []
    if evaluation.selection_share is not None:
        return ["Which trials were stopped was decided on the questions that are held out for selection."]
    return [
        "Which trials were stopped was decided on the same questions as the accuracies shown, so that those of the "
        "trials that went on are too high; `evaluation.selection_share` holds questions out for that."
    ]


def _ungradable(reader: Reader, rows: Iterable[TrialRow], metric: str) -> int:
    """Completions without a verdict, at all steps; those of the base model, which all trials share, once."""
    counts = {
        (row.training_id if step else "base", key, step): value
        for row in rows
        for key in row.metrics
        if key.endswith(f"/{metric}")
        for step, value in (reader.curve(row.run_id, key) if row.run_id else ())
    }
    return round(sum(counts.values()))


def of_accuracies(
    evaluation: EvaluationSpec, reader: Reader, rows: Sequence[TrialRow], means: Sequence[TrialCurves]
) -> list[str]:
    notes = _interval_notes(means)
    if evaluation.selection_share is not None:
        notes.append(
            f"Accuracies leave out the {100 * evaluation.selection_share:g}% of each benchmark's questions that are "
            "held out for selection."
        )
    limits = [f"{spec.name} to its first {spec.limit} questions" for spec in evaluation.benchmarks if spec.limit]
    if limits:
        notes.append(f"Limited: {', '.join(limits)}.")
    for metric, grader in (("ungradable", ""), ("paper_ungradable", " by the grader paper")):
        if ungradable := _ungradable(reader, rows, metric):
            notes.append(f"Completions that could not be graded{grader}, and count as wrong: {ungradable:,}.")
    return notes


def _interval_notes(means: Sequence[TrialCurves]) -> list[str]:
    if not means:
        return ["Accuracy in percent with 95% intervals, which leave out the spread over seeds."]
    notes = ["Accuracy in percent: means over training seeds, with 95% intervals that hold the spread over seeds."]
    if alone := [cell.name for cell in means if len(cell.seeds) == 1]:
        notes.append(f"One seed alone, and so intervals without that spread: {', '.join(alone)}.")
    points = [(cell, point) for cell in means for curves in (cell.accuracy, cell.paper) for points in curves.values()
              for point in points]  # fmt: skip
    if missing := dict.fromkeys(cell.name for cell, point in points if not point.by_question):
        notes.append(
            "Verdicts by question are not recorded of every seed, so that intervals are t over the seeds' accuracies "
            f"joined to the mean of the seeds' own intervals, which is wide: {', '.join(missing)}."
        )
    if fewer := dict.fromkeys(cell.name for cell, point in points if point.seeds < point.of_seeds):
        notes.append(f"Measured at some steps of fewer seeds than there are: {', '.join(fewer)}.")
    return notes


def of_histograms(rows: Iterable[TrialRow]) -> list[str]:
    found = {row.params.get("evaluation.histogram.samples") for row in rows} - {None}
    return [f"Measured on the targets of {samples} training samples." for samples in found if len(found) == 1]
