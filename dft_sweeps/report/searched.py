"""Accuracy at the last step against every dimension that a sweep's search varies, and the best point of each arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dft_sweeps.report.ablation import reach
from dft_sweeps.report.best import best_points, last_point
from dft_sweeps.report.curves import Dimension, Measured, Sampling, SweepCurves, TrialCurves, axis_title
from dft_sweeps.report.layout import MAX_COLUMNS, Page, lay_out
from dft_sweeps.report.ranges import accuracy_ranges, benchmark_title
from dft_sweeps.report.style import BASE_LINE, Look, Styles
from dft_sweeps.report.tables import grader_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM = "arm"
APART, FARTHEST = 6.0, 18.0
"""Points between the arms' marks at one value, which are many, and from the first arm's to the last's."""
MARGIN = 0.05
"""Beside a range of numbers, as a share of it."""


def by_arm(curves: SweepCurves) -> SweepCurves:
    """The same with arms told apart and points not: for figures, where a colour for every value would say nothing."""
    axes = curves.arm_axes
    if not curves.searched or len(axes) < 2:
        return replace(curves, axes=axes)

    def labelled(cell: TrialCurves) -> TrialCurves:
        return replace(cell, values={**cell.values, ARM: ", ".join(cell.values[axis] for axis in axes)})

    trials, means = (tuple(map(labelled, cells)) for cells in (curves.trials, curves.means))
    return replace(curves, axes=(ARM,), trials=trials, means=means)


def search_figure(curves: SweepCurves, sampling: Sampling) -> Figure | None:
    """A panel for each dimension of the search, with a point for each trial that was trained to its end, by the
    headline benchmark; the best of each arm with its interval. None where there is no search, or no such trial."""
    shown, name = by_arm(curves), curves.benchmarks[0]
    points = [point for cell in shown.cells if (point := last_point(cell, (sampling.prefix, name)))]
    if not curves.searched or not points:
        return None
    chosen = {each.trial for each in best_points(curves, sampling)}
    bounds = accuracy_ranges({name: [_drawn(cell, sampling, name, cell.name in chosen) for cell in shown.cells
                                     if last_point(cell, (sampling.prefix, name))]})[name]  # fmt: skip
    of_path = {dimension.path: dimension for dimension in curves.searched}

    def draw(ax: Axes, path: str, cells: Sequence[TrialCurves], styles: Styles) -> None:
        places = _prepare_axis(ax, of_path[path], shown)
        arms = list(dict.fromkeys(styles.look(cell).colour for cell in shown.cells))
        apart = min(APART, FARTHEST / max(1, len(arms) - 1))
        for cell in sorted(cells, key=lambda cell: cell.name in chosen):  # the best above the others
            point, look = last_point(cell, (sampling.prefix, name)), styles.look(cell)
            if point and path in cell.values:
                shift = apart * (arms.index(look.colour) - (len(arms) - 1) / 2)
                place = places[cell.values[path]] if of_path[path].is_choice else float(cell.values[path])
                _draw_point(ax, place, point, look, cell.name in chosen, shift)
        for base in {100 * curve[0].accuracy for cell in cells
                     if (curve := cell.accuracy[sampling.prefix, name]) and curve[0].step == 0}:  # fmt: skip
            ax.axhline(base, zorder=1.5, **BASE_LINE)
        ax.set_ylim(bounds)

    page = Page(
        title=f"{curves.name}: accuracy at the last step by what was searched",
        subtitle=f"{sampling.name}: {sampling.label}; {benchmark_title(name)}",
        panels=dict.fromkeys(of_path, ""),
        x_label={path: axis_title(path) for path in of_path},
        y_label="accuracy (%)",
        share_y="all",
        lines="alike",
        base=BASE_LINE,
        notes=_notes(curves),
        columns=min(MAX_COLUMNS, len(of_path)),
    )
    return lay_out(shown, page, draw)


def _drawn(cell: TrialCurves, sampling: Sampling, name: str, best: bool) -> Measured:
    """Its interval is drawn of a best point alone."""
    point = last_point(cell, (sampling.prefix, name))
    assert point is not None
    return point if best else Measured(point.step, point.accuracy, None, None)


def _prepare_axis(ax: Axes, dimension: Dimension, curves: SweepCurves) -> dict[str, int]:
    """Its scale; of a choice, the place of every value that was tried."""
    if dimension.is_choice:
        levels = curves.levels(dimension.path)
        ax.set_xticks(range(len(levels)), levels)
        ax.set_xlim(-0.6, len(levels) - 0.4)
        return {level: place for place, level in enumerate(levels)}
    low, high = dimension.bounds
    if dimension.kind == "log_uniform":
        ax.set_xscale("log")
        ax.set_xlim(low / (high / low) ** MARGIN, high * (high / low) ** MARGIN)
    else:
        ax.set_xlim(low - MARGIN * (high - low), high + MARGIN * (high - low))
    return {}


def _draw_point(ax: Axes, place: float, point: Measured, look: Look, best: bool, shift: float) -> None:
    """Args: `shift` is in points, to the right; the mark's data are at the place."""
    from matplotlib.transforms import ScaledTranslation

    figure = ax.get_figure(root=True)
    assert figure is not None
    below, above = reach(point)
    ax.errorbar(
        [place],
        [100 * point.accuracy],
        yerr=[[below], [above]] if best else None,
        color=look.colour,
        marker="*" if best else "o",
        markersize=12 if best else 6,
        markeredgecolor="black" if best else "white",
        markeredgewidth=0.7,
        elinewidth=1.6,
        capsize=3.5,
        alpha=1.0 if best else 0.75,
        zorder=2.5 if best else 2.0,
        transform=ax.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans),
    )


def _notes(curves: SweepCurves) -> list[str]:
    held_out = curves.selection_share is not None
    where = "the questions held out for that, which are not those shown" if held_out else "these very questions"
    stopped = sum(cell.status == "FINISHED" and not cell.is_whole for cell in curves.cells)
    return [
        f"Stars: the best point of each arm, chosen on {where}; bars: 95% intervals for new questions, by the grader "
        f"{grader_of(curves, curves.benchmarks[0])}.",
        *([f"Not shown: {stopped} that the scheduler stopped before their last step."] if stopped else []),
        *curves.accuracy_notes,
        *curves.notes,
    ]
