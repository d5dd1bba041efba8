"""How likely the training targets are to the base model and after training: the paper's Figure 2, and its data."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dft_sweeps.report.curves import SweepCurves, TrialCurves, axis_title
from dft_sweeps.report.layout import Page, lay_out
from dft_sweeps.report.style import BASE_FILL, BASE_STEPS, SEED_LINE, Styles
from dft_sweeps.spec.expand import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_OVERLAID = 4
PANEL_WIDTH = 4.8  # inches: room for a label at every edge of the paper's bins
LABEL_SIZE, CHARACTER_WIDTH, GAP = 8.0, 4.8, 3.0  # points
LOWEST, HIGHEST = 0.1, 125.0  # percent; the paper's axis, and a margin above 100
CSV_FIELDS = ("step", "probability_low", "probability_high", "share")


def probability_figure(curves: SweepCurves) -> Figure | None:
    """Share of the training targets, on a log scale, by their probability; None where it was not measured.

    Shows every cell at its last step and the base model (step 0). The values of the first axis lie over each
    other, unless they are many and there is no other; those of the others have panels of their own. Bins are drawn
    equally wide, side by side.
    """
    measured = [cell for cell in curves.cells if cell.histograms]
    if not measured:
        return None
    axis = _panel_axis(curves)
    edges = sorted({edge for cell in measured for edge in cell.edges})
    limits = _lowest([*measured, *(seed for cell in measured for seed in cell.seeds if seed.histograms)]), HIGHEST

    def draw(ax: Axes, level: str, cells: Sequence[TrialCurves], styles: Styles) -> None:
        here = [cell for cell in cells if axis is None or cell.values[axis] == level]
        _draw(ax, [cell for cell in here if cell.histograms], styles, edges, limits)

    page = Page(
        title=f"{curves.name}: probabilities of training targets",
        subtitle=f"under the base model and {_when(measured)}" + (f"; {curves.seeds_in_words}" if curves.means else ""),
        panels={level: f"{axis_title(axis)}: {level}" for level in curves.levels(axis)} if axis else {"": ""},
        x_label="probability of the target token",
        y_label="target tokens (%)",
        share_y="all",
        lines="alike",
        base=BASE_STEPS,
        notes=[*(["Thin lines: single seeds."] if curves.means else []), *curves.histogram_notes, *curves.notes],
        panel_width=PANEL_WIDTH,
    )
    return lay_out(curves, page, draw)


def csv_text(curves: SweepCurves) -> str:
    """Every histogram of the sweep, a bin a line, shares in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = curves.trial_axes or curves.axes
    writer.writerow(["training_id", *axes, *CSV_FIELDS])
    for trial in curves.trials:
        values = [trial.values[axis] for axis in axes]
        for step, shares in trial.histograms.items():
            for (low, high), share in zip(itertools.pairwise(trial.edges), shares, strict=True):
                writer.writerow([trial.training_id, *values, step, low, high, share])
    return text.getvalue()


def _panel_axis(curves: SweepCurves) -> str | None:
    """The axis whose values have a column of panels each."""
    if len(curves.axes) == 1 and len(curves.levels(curves.axes[0])) > MAX_OVERLAID:
        return curves.axes[0]
    return curves.axes[1] if len(curves.axes) > 1 else None


def _lowest(trials: Sequence[TrialCurves]) -> float:
    """Percent: `LOWEST`, or what is just below the least share drawn (but zero), where that is less."""
    drawn = [trial.histograms.get(step, ()) for trial in trials for step in (0, max(trial.histograms))]
    return min(LOWEST, *(70 * share for shares in drawn for share in shares if share > 0))


def _draw(
    ax: Axes, cells: Sequence[TrialCurves], styles: Styles, edges: Sequence[float], limits: tuple[float, float]
) -> None:
    ax.set_yscale("log", nonpositive="clip")
    ax.set_ylim(limits)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlim(-0.2, len(edges) - 0.8)
    ax.set_xticks(range(len(edges)), _edge_labels(edges), fontsize=LABEL_SIZE)
    ax.grid(visible=False, axis="x")
    if not cells:
        ax.set_axis_off()
    places = {edge: place for place, edge in enumerate(edges)}
    base = {cell.histograms[0]: cell for cell in cells if 0 in cell.histograms}
    for cell in base.values():
        _draw_steps(ax, cell, 0, places, zorder=0.4, fill=True, baseline=limits[0], **BASE_FILL)
        _draw_steps(ax, cell, 0, places, zorder=1.5, baseline=None, **BASE_STEPS)
    for cell in cells:
        last, colour = max(cell.histograms), styles.look(cell).colour
        for seed in cell.seeds if len(cell.seeds) > 1 else ():
            if last > 0 and last in seed.histograms:
                _draw_steps(ax, seed, last, places, color=colour, baseline=None, **SEED_LINE)
        if last > 0:
            _draw_steps(ax, cell, last, places, zorder=2, baseline=None, color=colour, linewidth=1.6)


def _draw_steps(ax: Axes, cell: TrialCurves, step: int, places: dict[float, int], **look: Any) -> None:
    """Empty bins fall below the axis, which has no zero."""
    ax.stairs([100 * share for share in cell.histograms[step]], [places[edge] for edge in cell.edges], **look)


def _edge_labels(edges: Sequence[float]) -> list[str]:
    """A label for every edge, or for every second, third ... and the last one where they would overlap; else empty."""
    labels = ["1.0" if edge == 1 else shown(edge) for edge in edges]
    bins = len(edges) - 1
    spacing = 72 * 0.9 * PANEL_WIDTH / bins
    for every in range(1, bins + 1):
        kept = [*range(0, bins, every), bins]
        widths = [0.5 * CHARACTER_WIDTH * len(labels[a] + labels[b]) + GAP for a, b in itertools.pairwise(kept)]
        if all(width <= (b - a) * spacing for width, (a, b) in zip(widths, itertools.pairwise(kept), strict=True)):
            break
    return [label if index in kept else "" for index, label in enumerate(labels)]


def _when(trials: Sequence[TrialCurves]) -> str:
    last = {max(trial.histograms) for trial in trials}
    return f"at step {max(last)}" if len(last) == 1 else "at the last step of each trial"
