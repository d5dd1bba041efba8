"""Accuracy at the last step against learning rate and batch size: the paper's Figure 3, of one sweep or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, nan
from typing import TYPE_CHECKING

from dft_sweeps.report.best import last_point
from dft_sweeps.report.collect import OBJECTIVE_AXES
from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, TrialCurves, axis_title
from dft_sweeps.report.layout import MAX_COLUMNS, Page, lay_out
from dft_sweeps.report.ranges import accuracy_ranges, benchmark_title
from dft_sweeps.report.style import BASE_LINE, Look, Styles
from dft_sweeps.report.tables import grader_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASES = {"train.learning_rate": 10, "train.batch_size": 2}
"""The axes that accuracy is drawn against, and the base of each one's logarithm."""
PANEL_WIDTH, AXIS_WIDTH = 2.6, 1.9  # inches, with and without what stands beside the axis
MOST_COLUMNS = 4
MARGIN = 0.09  # of the logarithmic range of the values, on either side
LABEL_SIZE, CHARACTER_WIDTH, GAP = 9.0, 5.6, 3.0  # points
APART, FARTHEST = 5.0, 12.0  # points between lines' bars at one value, and from the first to the last


@dataclass(frozen=True)
class _Ablation:
    axis: str
    curves: SweepCurves
    """Of one sweep, with its other axes alone."""

    @property
    def values(self) -> list[str]:
        return self.curves.levels(self.axis)


def ablation_figures(sweeps: Sequence[SweepCurves]) -> dict[str, Figure | None]:
    """By name: of each sampling the headline alone, which fits a column of text, and all benchmarks."""
    benchmarks = sweeps[0].benchmarks
    found = {}
    for sampling in sweeps[0].samplings:
        if len(benchmarks) > 1:
            found[f"ablation_{sampling.name}_{benchmarks[0]}"] = ablation_figure(sweeps, sampling, benchmarks[:1])
        found[f"ablation_{sampling.name}"] = ablation_figure(sweeps, sampling, benchmarks)
    return found


def ablation_figure(sweeps: Sequence[SweepCurves], sampling: Sampling, benchmarks: Sequence[str]) -> Figure | None:
    """Accuracy at the last step, for each benchmark a panel for each learning-rate or batch-size axis of the sweeps.

    Never at the best step, whose accuracy is too high for having been chosen. None where no such axis takes several
    values, or no trial is finished. The sweeps have equal measures.
    """
    key_of = {name: (sampling.prefix, name) for name in benchmarks}
    found = [each for curves in sweeps for each in _ablations(curves)]
    lasts = [last_point(cell, key) for each in found for cell in each.curves.cells for key in key_of.values()]
    if not any(lasts):
        return None
    panels = {f"{name} {index}": (name, each) for name in key_of for index, each in enumerate(found)}
    ranges = accuracy_ranges(
        {name: [point for each in found for point in _drawn(each.curves, key)] for name, key in key_of.items()}
    )
    page = Page(
        title=f"{sweeps[0].name}: accuracy at the last step" if len(sweeps) == 1 else "Accuracy at the last step",
        subtitle="; ".join(dict.fromkeys([f"{sampling.name}: {sampling.label}", *_seeds(sweeps)])),
        panels={key: _title(name, each, found) for key, (name, each) in panels.items()},
        x_label={key: axis_title(each.axis) for key, (_, each) in panels.items()},
        y_label="accuracy (%)",
        share_y="all" if len(set(ranges.values())) == 1 else "none",
        lines="marked",
        base=BASE_LINE,
        notes=_notes(sweeps, [point.step for point in lasts if point]),
        panel_width=PANEL_WIDTH,
        columns=MAX_COLUMNS if len(found) == 1 else len(found) * max(1, MOST_COLUMNS // len(found)),
    )

    def draw(ax: Axes, panel: str, cells: Sequence[TrialCurves], styles: Styles) -> None:
        name, ablation = panels[panel]
        _draw(ax, ablation, key_of[name], cells, styles)
        ax.set_ylim(ranges[name])

    return lay_out({key: each.curves for key, (_, each) in panels.items()}, page, draw)


def _ablations(curves: SweepCurves) -> list[_Ablation]:
    found = []
    for axis in BASES if not curves.searched else ():  # points of a search differ in all at once
        if axis in curves.axes:
            # The other one of them is told by lines, so that both have the same rows.
            others = sorted(set(curves.axes) - {axis}, key=lambda each: (_rank(each), curves.axes.index(each)))
            found.append(_Ablation(axis, replace(curves, axes=tuple(others))))
    return found


def _rank(axis: str) -> int:
    return 0 if axis in OBJECTIVE_AXES else 1 if axis in BASES else 2


def _drawn(curves: SweepCurves, key: tuple[str, str]) -> list[Measured]:
    """Last points, and those of the base model without their intervals."""
    lasts = [point for cell in curves.cells if (point := last_point(cell, key))]
    return lasts + [Measured(0, accuracy, None, None) for accuracy in _base(curves.cells, key)]


def _base(cells: Sequence[TrialCurves], key: tuple[str, str]) -> set[float]:
    curves = [cell.accuracy[key] for cell in cells]
    return {points[0].accuracy for points in curves if points and points[0].step == 0}


def _draw(ax: Axes, ablation: _Ablation, key: tuple[str, str], cells: Sequence[TrialCurves], styles: Styles) -> None:
    """A line for each combination of the other axes' values. Bars at one value stand side by side; their points' data
    are at the value."""
    lines: dict[tuple[str, ...], list[TrialCurves]] = {}
    for cell in sorted(cells, key=lambda cell: float(cell.values[ablation.axis])):
        lines.setdefault(tuple(cell.values[axis] for axis in ablation.curves.axes), []).append(cell)
    for accuracy in _base(cells, key):
        ax.axhline(100 * accuracy, zorder=1.5, **BASE_LINE)
    _show_values(ax, ablation)
    apart = min(APART, FARTHEST / max(1, len(lines) - 1))
    for index, line in enumerate(lines.values()):
        measured = [(cell, point) for cell in line if (point := last_point(cell, key))]
        if measured:
            shift = apart * (index - (len(lines) - 1) / 2)
            _draw_line(ax, [(float(cell.values[ablation.axis]), point) for cell, point in measured],
                       styles.look(measured[0][0]), shift)  # fmt: skip


def _draw_line(ax: Axes, points: Sequence[tuple[float, Measured]], look: Look, shift: float) -> None:
    """Args: `shift` is in points, to the right."""
    from matplotlib.transforms import ScaledTranslation

    figure = ax.get_figure(root=True)
    assert figure is not None
    below, above = zip(*(reach(point) for _, point in points), strict=True)
    ax.errorbar(
        [value for value, _ in points],
        [100 * point.accuracy for _, point in points],
        yerr=[below, above],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markeredgecolor="white",
        markeredgewidth=0.6,
        elinewidth=1.2,
        capsize=2.5,
        transform=ax.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
    )


def reach(point: Measured) -> tuple[float, float]:
    """How far its interval reaches below and above it, in percent; NaN draws none."""
    if point.low is None or point.high is None:
        return nan, nan
    return 100 * (point.accuracy - point.low), 100 * (point.high - point.accuracy)


def _show_values(ax: Axes, ablation: _Ablation) -> None:
    """A tick at every value, with a label where there is room."""
    values = [float(value) for value in ablation.values]
    ax.set_xscale("log", base=BASES[ablation.axis])
    margin = (values[-1] / values[0]) ** MARGIN
    ax.set_xlim(values[0] / margin, values[-1] * margin)
    ax.set_xticks(values, _labels(ablation.values), fontsize=LABEL_SIZE)
    ax.set_xticks([], minor=True)


def _labels(values: Sequence[str]) -> list[str]:
    """The values, rising, or nothing for those between others that would overlap; the first and the last are kept."""
    width = log(float(values[-1]) / float(values[0])) * (1 + 2 * MARGIN)
    places = [72 * AXIS_WIDTH * log(float(value) / float(values[0])) / width for value in values]
    halves = [CHARACTER_WIDTH * len(value) / 2 for value in values]
    kept = [0]
    for index in range(1, len(values)):
        if places[index] - halves[index] > places[kept[-1]] + halves[kept[-1]] + GAP:
            kept.append(index)
        elif index == len(values) - 1:
            kept = [*(kept[:-1] or kept), index]
    return [value if index in kept else "" for index, value in enumerate(values)]


def _title(name: str, ablation: _Ablation, found: Sequence[_Ablation]) -> str:
    """With the sweep's name where several sweeps have the axis."""
    several = sum(each.axis == ablation.axis for each in found) > 1
    return benchmark_title(name) + (f", {ablation.curves.name}" if several else "")


def _seeds(sweeps: Sequence[SweepCurves]) -> list[str]:
    return [curves.seeds_in_words for curves in sweeps if curves.means]


def _notes(sweeps: Sequence[SweepCurves], steps: Sequence[int]) -> list[str]:
    span = " to ".join(f"{step:,}" for step in dict.fromkeys([min(steps), max(steps)]))
    first = sweeps[0]
    return list(
        dict.fromkeys(
            [
                *([f"Sweeps: {' and '.join(curves.name for curves in sweeps)}."] if len(sweeps) > 1 else []),
                f"At the last step of each finished trial ({span}), not at its best one.",
                f"Bars: 95% intervals for new questions, by the grader {grader_of(first, first.benchmarks[0])}.",
                *(note for curves in sweeps for note in (*curves.accuracy_notes, *curves.notes)),
            ]
        )
    )
