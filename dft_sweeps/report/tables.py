"""The tables of a sweep: accuracy and its interval at every step measured; for terminals, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, axis_title
from dft_sweeps.tracking.names import AVERAGE

if TYPE_CHECKING:
    from rich.table import Table

CSV_FIELDS = ("sampling", "benchmark", "step", "accuracy", "ci_low", "ci_high")
_CELL_WIDTH = 13  # "100.0" over "98.0-100.0", with the table's padding


@dataclass(frozen=True)
class AccuracyTable:
    title: str
    axes: tuple[str, ...]
    steps: tuple[int, ...]
    rows: tuple[tuple[tuple[str, ...], dict[int, Measured]], ...]
    """Per trial its axes' values and what was measured, by step."""


def accuracy_table(curves: SweepCurves, sampling: Sampling, benchmark: str) -> AccuracyTable:
    """A row per trial, objectives of a setting side by side; a column per step, step 0 is the base model."""
    axes = curves.axes[::-1]
    order = {axis: {value: index for index, value in enumerate(curves.levels(axis))} for axis in axes}
    trials = sorted(curves.trials, key=lambda trial: [order[axis][trial.values[axis]] for axis in axes])
    rows = []
    for trial in trials:
        measured = {point.step: point for point in trial.accuracy[sampling.prefix, benchmark]}
        labels = tuple(trial.values[axis] for axis in axes) if axes else (trial.name,)
        rows.append((labels, measured))
    what = "average of the benchmarks" if benchmark == AVERAGE else benchmark
    return AccuracyTable(
        title=f"{curves.name}, {what}: accuracy (%), {sampling.name} ({sampling.label})",
        axes=tuple(axis_title(axis) for axis in axes) or ("trial",),
        steps=tuple(sorted({step for _, measured in rows for step in measured})),
        rows=tuple(rows),
    )


def rich_table(table: AccuracyTable, width: int) -> Table:
    """For a terminal of `width` characters. The caption names the steps left out because they do not fit."""
    from rich.table import Table

    labels = [max(map(len, column)) for column in zip(table.axes, *(values for values, _ in table.rows), strict=True)]
    room = max(2, (width - sum(label + 3 for label in labels) - 1) // _CELL_WIDTH)
    steps = spread(table.steps, room)
    hidden = [str(step) for step in table.steps if step not in steps]
    caption = f"Not shown for want of width: step {', '.join(hidden)}." if hidden else None
    rich = Table(title=table.title, title_justify="left", caption=caption, caption_justify="left")
    for axis in table.axes:
        rich.add_column(axis, overflow="fold")
    for step in steps:
        rich.add_column(_heading(step), justify="right", no_wrap=True, min_width=_CELL_WIDTH - 4)
    for index, (values, measured) in enumerate(table.rows):
        last = index + 1 == len(table.rows) or table.rows[index + 1][0][:-1] != values[:-1]
        rich.add_row(*values, *(_rich_cell(measured.get(step)) for step in steps), end_section=last)
    return rich


def markdown(table: AccuracyTable, notes: Sequence[str]) -> str:
    headings = [*table.axes, *(_heading(step) for step in table.steps)]
    rule = ["---"] * len(table.axes) + ["--:"] * len(table.steps)
    rows = [[*values, *(_cell(measured.get(step)) for step in table.steps)] for values, measured in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
    return "\n".join([f"**{table.title}**", "", *lines, "", *(f"{note}  " for note in notes), ""])


def csv_text(curves: SweepCurves) -> str:
    """Every measurement of the sweep, one a line; accuracies are shares in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["training_id", *curves.axes, *CSV_FIELDS])
    for trial in curves.trials:
        values = [trial.values[axis] for axis in curves.axes]
        for sampling in curves.samplings:
            for benchmark in curves.benchmarks:
                for point in trial.accuracy[sampling.prefix, benchmark]:
                    numbers = (point.step, point.accuracy, point.low, point.high)
                    writer.writerow([trial.training_id, *values, sampling.name, benchmark, *numbers])
    return text.getvalue()


def spread(steps: Sequence[int], room: int) -> list[int]:
    """At most `room` of the steps: the first, the last, and evenly between."""
    if len(steps) <= room:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (room - 1))] for index in range(room)]


def _heading(step: int) -> str:
    return "base" if step == 0 else f"step {step}"


def _cell(point: Measured | None) -> str:
    if point is None:
        return "-"
    value = f"{100 * point.accuracy:.1f}"
    return value if point.low is None or point.high is None else f"{value} ({_interval(point)})"


def _rich_cell(point: Measured | None) -> str:
    if point is None:
        return "-"
    value = f"{100 * point.accuracy:.1f}"
    return value if point.low is None or point.high is None else f"{value}\n[dim]{_interval(point)}[/dim]"


def _interval(point: Measured) -> str:
    assert point.low is not None and point.high is not None
    return f"{100 * point.low:.1f}-{100 * point.high:.1f}"
