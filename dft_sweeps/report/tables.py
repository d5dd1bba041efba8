"""The tables of a sweep: accuracy and its interval at every step measured, and at the best step of each trial; for
terminals, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dft_sweeps.report.best import best, best_step
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
    """Per trial (or cell of several seeds) its axes' values and what was measured, by step."""
    fixed_list: bool = False
    """Whether the intervals are those for other samples on the same questions."""
    best: tuple[int | None, ...] = ()
    """Per row its best step by the headline accuracy, None where there is no choice; empty where no row has one."""
    best_row: int | None = None
    """The row that holds the best checkpoint of the sweep; None where that is the base model, or none."""
    best_title: str = ""
    stopped: tuple[int | None, ...] = ()
    """Per row the step at which the scheduler stopped it, None where it did not; empty where it stopped none."""

    def absent(self, row: int, step: int) -> str:
        """What stands for a number that there is not."""
        stopped_at = self.stopped[row] if self.stopped else None
        return "-" if stopped_at is None or step <= stopped_at else f"stopped at {stopped_at}"


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
    """A row per trial, or per cell of several seeds, objectives of a setting side by side; a column per step, step 0 is
    the base model.

    Args:
        paper: by the published harness's grader, to stand beside published numbers: with its way to average, and
            intervals for other samples on the same questions.
    """
    axes = curves.axes[::-1]
    order = {axis: {value: index for index, value in enumerate(curves.levels(axis))} for axis in axes}
    cells = sorted(curves.cells, key=lambda cell: [order[axis][cell.values[axis]] for axis in axes])
    rows = []
    for cell in cells:
        curve = (cell.paper if paper else cell.accuracy)[sampling.prefix, benchmark]
        measured = {point.step: point for point in curve}
        labels = tuple(cell.values[axis] for axis in axes) if axes else (cell.name,)
        rows.append((labels, measured))
    steps = [best_step(curves, sampling, cell) for cell in cells]
    stops = tuple(cell.stopped_at for cell in cells)
    overall = best(curves, sampling)
    of_all = [index for index, cell in enumerate(cells) if overall is not None and overall.trial == cell.name]
    what = "average of the benchmarks" if benchmark == AVERAGE else benchmark
    seeds = f", {curves.seeds_in_words}" if curves.means else ""
    return AccuracyTable(
        title=f"{curves.name}, {what}: accuracy (%), {sampling.name} ({sampling.label}){seeds}",
        subtitle=_subtitle(curves, benchmark, paper),
        axes=tuple(axis_title(axis) for axis in axes) or ("trial",),
        steps=tuple(sorted({step for _, measured in rows for step in measured})),
        rows=tuple(rows),
        fixed_list=paper,
        best=tuple(steps) if any(step is not None for step in steps) else (),
        best_row=of_all[0] if of_all else None,
        best_title="best on test" if curves.selection_share is None else "best held-out",
        stopped=stops if any(step is not None for step in stops) else (),
    )


def _subtitle(curves: SweepCurves, benchmark: str, paper: bool) -> str:
    grader = grader_of(curves, benchmark, paper)
    seeds = " and other seeds" if curves.means else ""
    if paper:
        of = f"this fixed list of questions{seeds}"
        return f"Grader {grader}, averaged as in the published harness; 95% intervals for {of}."
    return f"Grader {grader}; 95% intervals for new questions{seeds}."


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
    room = (width - sum(label + 3 for label in labels) - 1) // _CELL_WIDTH
    with_best = bool(table.best) and room > 2
    steps = spread(table.steps, max(2, room - with_best))
    hidden = [f"step {', '.join(map(str, left))}" for left in [[s for s in table.steps if s not in steps]] if left]
    hidden += [table.best_title] if table.best and not with_best else []
    caption = f"Not shown for want of width: {'; '.join(hidden)}." if hidden else None
    rich = Table(
        title=f"{table.title}\n{table.subtitle}", title_justify="left", caption=caption, caption_justify="left"
    )
    for axis in table.axes:
        rich.add_column(axis, overflow="fold")
    for step in steps:
        rich.add_column(_heading(step), justify="right", no_wrap=True, min_width=_CELL_WIDTH - 4)
    if with_best:
        rich.add_column(table.best_title.replace(" ", "\n", 1), justify="right", min_width=_CELL_WIDTH - 4)
    for index, (values, measured) in enumerate(table.rows):
        last = index + 1 == len(table.rows) or table.rows[index + 1][0][:-1] != values[:-1]
        numbers = [_rich_cell(measured.get(step), table, table.absent(index, step)) for step in steps]
        numbers += [_best_cell(table, index, "\n")] if with_best else []
        rich.add_row(*values, *numbers, end_section=last)
    return rich


def markdown(table: AccuracyTable, notes: Sequence[str]) -> str:
    headings = [*table.axes, *(_heading(step) for step in table.steps)]
    rule = ["---"] * len(table.axes) + ["--:"] * len(table.steps)
    rows = [
        [*values, *(_cell(measured.get(step), table, table.absent(index, step)) for step in table.steps)]
        for index, (values, measured) in enumerate(table.rows)
    ]
    if table.best:
        headings, rule = [*headings, table.best_title], [*rule, "--:"]
        rows = [[*row, _best_cell(table, index, " ")] for index, row in enumerate(rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
    return "\n".join([f"**{table.title}**", "", table.subtitle, "", *lines, "", *(f"{note}  " for note in notes), ""])


def csv_text(curves: SweepCurves) -> str:
    """Every measurement of the sweep, one a line; accuracies are shares in [0, 1]. Where there are several seeds, also
    the means over them, without a training id."""
    text = io.StringIO()
    extra = ["seeds"] * bool(curves.means) + ["selection_accuracy"] * (curves.selection_share is not None)
    extra += ["stopped_at"] * _any_stopped(curves)
    axes = list(curves.trial_axes or curves.axes)
    writer = csv.DictWriter(text, ["training_id", *axes, *CSV_FIELDS, *extra], lineterminator="\n")
    writer.writeheader()
    for record in records(curves):
        values = record.pop("axes")
        writer.writerow(record | {axis: values.get(axis, "") for axis in axes})
    return text.getvalue()


def records(curves: SweepCurves) -> list[dict[str, Any]]:
    """Every measurement of the sweep: training id, the values of the axes, and `CSV_FIELDS`. Where there are several
    seeds, `seeds` too, and then the means over them, whose training id is empty and which lack the seed's axis; where
    questions are held out, `selection_accuracy`; where a scheduler stopped trials, `stopped_at`."""
    return [
        {
            "training_id": each.training_id,
            "axes": each.values,
            "sampling": sampling.name,
            "benchmark": benchmark,
            "grader": grader_of(curves, benchmark, paper),
            "step": point.step,
            "accuracy": point.accuracy,
            **dict(zip(BOUNDS, (point.low, point.high, point.fixed_low, point.fixed_high), strict=True)),
            **({"seeds": point.seeds} if curves.means else {}),
            **({"selection_accuracy": point.selection} if curves.selection_share is not None else {}),
            **({"stopped_at": each.stopped_at} if _any_stopped(curves) else {}),
        }
        for each in (*curves.trials, *(cell for cell in curves.means if len(cell.seeds) > 1))
        for sampling in curves.samplings
        for benchmark in curves.benchmarks
        for paper, measured in ((False, each.accuracy), (True, each.paper))
        for point in measured.get((sampling.prefix, benchmark), ())
    ]


def _any_stopped(curves: SweepCurves) -> bool:
    return any(trial.stopped_at is not None for trial in curves.trials)


def spread(steps: Sequence[int], room: int) -> list[int]:
    """At most `room` of the steps: the first, the last, and evenly between."""
    if len(steps) <= room:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (room - 1))] for index in range(room)]


def _heading(step: int) -> str:
    return "base" if step == 0 else f"step {step}"


def _cell(point: Measured | None, table: AccuracyTable, absent: str) -> str:
    if point is None:
        return absent
    value, interval = f"{100 * point.accuracy:.1f}", _interval(point, table)
    in_brackets = "; ".join(part for part in (interval, _fewer(point)) if part)
    return f"{value} ({in_brackets})" if in_brackets else value


def _best_cell(table: AccuracyTable, index: int, break_: str) -> str:
    """E.g. ``88.2 at 20``, with a star in the row of the best checkpoint of all."""
    step = table.best[index]
    point = None if step is None else table.rows[index][1].get(step)
    if point is None:
        return "-"
    star = "*" if index == table.best_row else ""
    return f"{100 * point.accuracy:.1f}{star}{break_}at {_heading(point.step).removeprefix('step ')}"


def _rich_cell(point: Measured | None, table: AccuracyTable, absent: str) -> str:
    if point is None:
        return f"[dim]{absent.replace(' ', chr(10), 1)}[/dim]"
    value, interval = f"{100 * point.accuracy:.1f}", _interval(point, table)
    return "\n".join([value, *(f"[dim]{part}[/dim]" for part in (interval, _fewer(point)) if part)])


def _fewer(point: Measured) -> str:
    return f"{point.seeds}/{point.of_seeds} seeds" if point.seeds < point.of_seeds else ""


def _interval(point: Measured, table: AccuracyTable) -> str:
    low, high = (point.fixed_low, point.fixed_high) if table.fixed_list else (point.low, point.high)
    return "" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"
