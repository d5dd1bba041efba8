"""The tables of a sweep: accuracy and its interval at every step measured; for terminals, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, axis_title
from dft_sweeps.tracking.names import AVERAGE, BOUNDS

if TYPE_CHECKING:
    from rich.table import Table

CSV_FIELDS = ("sampling", "benchmark", "grader", "step", "accuracy", *BOUNDS)
_CELL_WIDTH = 13  # "100.0" over "98.0-100.0", with the table's padding


@dataclass(frozen=True)
class AccuracyTable:
    title: str
    subtitle: str
    """Names the grader and the kind of interval."""
    axes: tuple[str, ...]
    steps: tuple[int, ...]
    rows: tuple[tuple[tuple[str, ...], dict[int, Measured]], ...]
    """Per trial its axes' values and what was measured, by step."""
    fixed_list: bool = False
    """Whether the intervals are those for other samples on the same questions."""


def accuracy_tables(curves: SweepCurves, benchmarks: Sequence[str]) -> list[AccuracyTable]:
    """Of every benchmark (``average`` may be one) and sampling, and again by the published harness's grader where that
    judged."""
    return [
        accuracy_table(curves, sampling, benchmark, paper)
        for benchmark in benchmarks
        for sampling in curves.samplings
        for paper in (False, True)
        if not paper or any(trial.paper.get((sampling.prefix, benchmark)) for trial in curves.trials)
    ]


def accuracy_table(curves: SweepCurves, sampling: Sampling, benchmark: str, paper: bool = False) -> AccuracyTable:
    """A row per trial, objectives of a setting side by side; a column per step, step 0 is the base model.

    Args:
        paper: by the published harness's grader, to stand beside published numbers: with its way to average, and
            intervals for other samples on the same questions.
    """
    axes = curves.axes[::-1]
    order = {axis: {value: index for index, value in enumerate(curves.levels(axis))} for axis in axes}
    trials = sorted(curves.trials, key=lambda trial: [order[axis][trial.values[axis]] for axis in axes])
    rows = []
    for trial in trials:
        curve = (trial.paper if paper else trial.accuracy)[sampling.prefix, benchmark]
        measured = {point.step: point for point in curve}
        labels = tuple(trial.values[axis] for axis in axes) if axes else (trial.name,)
        rows.append((labels, measured))
    what = "average of the benchmarks" if benchmark == AVERAGE else benchmark
    return AccuracyTable(
        title=f"{curves.name}, {what}: accuracy (%), {sampling.name} ({sampling.label})",
        subtitle=_subtitle(curves, benchmark, paper),
        axes=tuple(axis_title(axis) for axis in axes) or ("trial",),
        steps=tuple(sorted({step for _, measured in rows for step in measured})),
        rows=tuple(rows),
        fixed_list=paper,
    )


def _subtitle(curves: SweepCurves, benchmark: str, paper: bool) -> str:
    grader = grader_of(curves, benchmark, paper)
    if paper:
        return f"Grader {grader}, averaged as in the published harness; 95% intervals for this fixed list of questions."
    return f"Grader {grader}; 95% intervals for new questions."


def grader_of(curves: SweepCurves, benchmark: str, paper: bool = False) -> str:
    """``name/version``, or several where the benchmarks of an average have different ones of their own."""
    of = [name for name in curves.benchmarks if name != AVERAGE] if benchmark == AVERAGE else [benchmark]
    graders = [curves.graders[name] for name in of if name in curves.graders]
    found = dict.fromkeys(known[-1] if paper else known[0] for known in graders)
    return " and ".join(found) or "not recorded"


def rich_table(table: AccuracyTable, width: int) -> Table:
    """For a terminal of `width` characters. The caption names the steps left out because they do not fit."""
    from rich.table import Table

    labels = [max(map(len, column)) for column in zip(table.axes, *(values for values, _ in table.rows), strict=True)]
    room = max(2, (width - sum(label + 3 for label in labels) - 1) // _CELL_WIDTH)
    steps = spread(table.steps, room)
    hidden = [str(step) for step in table.steps if step not in steps]
    caption = f"Not shown for want of width: step {', '.join(hidden)}." if hidden else None
    rich = Table(
        title=f"{table.title}\n{table.subtitle}", title_justify="left", caption=caption, caption_justify="left"
    )
    for axis in table.axes:
        rich.add_column(axis, overflow="fold")
    for step in steps:
        rich.add_column(_heading(step), justify="right", no_wrap=True, min_width=_CELL_WIDTH - 4)
    for index, (values, measured) in enumerate(table.rows):
        last = index + 1 == len(table.rows) or table.rows[index + 1][0][:-1] != values[:-1]
        rich.add_row(*values, *(_rich_cell(measured.get(step), table) for step in steps), end_section=last)
    return rich


def markdown(table: AccuracyTable, notes: Sequence[str]) -> str:
    headings = [*table.axes, *(_heading(step) for step in table.steps)]
    rule = ["---"] * len(table.axes) + ["--:"] * len(table.steps)
    rows = [[*values, *(_cell(measured.get(step), table) for step in table.steps)] for values, measured in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
    return "\n".join([f"**{table.title}**", "", table.subtitle, "", *lines, "", *(f"{note}  " for note in notes), ""])


def csv_text(curves: SweepCurves) -> str:
    """Every measurement of the sweep, one a line; accuracies are shares in [0, 1]."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["training_id", *curves.axes, *CSV_FIELDS], lineterminator="\n")
    writer.writeheader()
    for record in records(curves):
        axes = record.pop("axes")
        writer.writerow(record | axes)
    return text.getvalue()


def records(curves: SweepCurves) -> list[dict[str, Any]]:
    """Every measurement of the sweep: training id, the values of the axes, and `CSV_FIELDS`."""
    return [
        {
            "training_id": trial.training_id,
            "axes": trial.values,
            "sampling": sampling.name,
            "benchmark": benchmark,
            "grader": grader_of(curves, benchmark, paper),
            "step": point.step,
            "accuracy": point.accuracy,
            **dict(zip(BOUNDS, (point.low, point.high, point.fixed_low, point.fixed_high), strict=True)),
        }
        for trial in curves.trials
        for sampling in curves.samplings
        for benchmark in curves.benchmarks
        for paper, measured in ((False, trial.accuracy), (True, trial.paper))
        for point in measured.get((sampling.prefix, benchmark), ())
    ]


def spread(steps: Sequence[int], room: int) -> list[int]:
    """At most `room` of the steps: the first, the last, and evenly between."""
    if len(steps) <= room:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (room - 1))] for index in range(room)]


def _heading(step: int) -> str:
    return "base" if step == 0 else f"step {step}"


def _cell(point: Measured | None, table: AccuracyTable) -> str:
    if point is None:
        return "-"
    value, interval = f"{100 * point.accuracy:.1f}", _interval(point, table)
    return f"{value} ({interval})" if interval else value


def _rich_cell(point: Measured | None, table: AccuracyTable) -> str:
    if point is None:
        return "-"
    value, interval = f"{100 * point.accuracy:.1f}", _interval(point, table)
    return f"{value}\n[dim]{interval}[/dim]" if interval else value


def _interval(point: Measured, table: AccuracyTable) -> str:
    low, high = (point.fixed_low, point.fixed_high) if table.fixed_list else (point.low, point.high)
    return "" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"
