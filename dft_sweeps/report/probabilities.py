"""How likely the training targets are to the base model and after training: the paper's Figure 2, and its data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dft_sweeps.report.curves import SweepCurves, TrialCurves, axis_title
from dft_sweeps.report.layout import Page, lay_out
from dft_sweeps.report.style import BASE_FILL, BASE_STEPS, Styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_OVERLAID = 4
CSV_FIELDS = ("step", "probability_low", "probability_high", "share")


def probability_figure(curves: SweepCurves) -> Figure | None:
    """Share of the training targets, on a log scale, by their probability; None where it was not measured.

    Shows every trial at its last step and the base model (step 0). The values of the first axis lie over each
    other, unless they are many and there is no other; those of the others have panels of their own.
    """
    limits = _limits(curves)
    if limits is None:
        return None
    axis = _panel_axis(curves)

    def draw(ax: Axes, level: str, trials: Sequence[TrialCurves], styles: Styles) -> None:
        shown = [trial for trial in trials if axis is None or trial.values[axis] == level]
        _draw(ax, [trial for trial in shown if trial.histograms], styles, limits)

    page = Page(
        title=f"{curves.name}: probabilities of training targets",
        subtitle=f"under the base model and {_when(curves)}",
        panels={level: f"{axis_title(axis)}: {level}" for level in curves.levels(axis)} if axis else {"": ""},
        x_label="probability of the target token",
        y_label="target tokens (%)",
        share_y="all",
        lines="alike",
        base=BASE_STEPS,
        notes=[*curves.histogram_notes, *curves.notes],
    )
    return lay_out(curves, page, draw)


def csv_text(curves: SweepCurves) -> str:
    """Every histogram of the sweep, a bin a line, shares in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["training_id", *curves.axes, *CSV_FIELDS])
    for trial in curves.trials:
        values = [trial.values[axis] for axis in curves.axes]
        for step, shares in trial.histograms.items():
            edges = _edges(len(shares))
            for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True):
                writer.writerow([trial.training_id, *values, step, low, high, share])
    return text.getvalue()


def _panel_axis(curves: SweepCurves) -> str | None:
    """The axis whose values have a column of panels each."""
    if len(curves.axes) == 1 and len(curves.levels(curves.axes[0])) > MAX_OVERLAID:
        return curves.axes[0]
    return curves.axes[1] if len(curves.axes) > 1 else None


def _limits(curves: SweepCurves) -> tuple[float, float] | None:
    """Whole decades of percent that hold every share drawn but zero, up to 100; None where there is none."""
    shares = [share for trial in curves.trials for found in _shown(trial) for share in found if share > 0]
    if not shares:
        return None
    return min(10.0, 10.0 ** math.floor(math.log10(100 * min(shares)))), 125.0


def _shown(trial: TrialCurves) -> list[tuple[float, ...]]:
    return [shares for step, shares in trial.histograms.items() if step in (0, max(trial.histograms))]


def _draw(ax: Axes, trials: Sequence[TrialCurves], styles: Styles, limits: tuple[float, float]) -> None:
    ax.set_yscale("log", nonpositive="clip")
    ax.set_ylim(limits)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    if not trials:
        ax.set_axis_off()
    for base in dict.fromkeys(trial.histograms[0] for trial in trials if 0 in trial.histograms):
        _draw_steps(ax, base, zorder=0.4, fill=True, **BASE_FILL)
        _draw_steps(ax, base, zorder=1.5, **BASE_STEPS)
    for trial in trials:
        last = max(trial.histograms)
        if last > 0:
            _draw_steps(ax, trial.histograms[last], zorder=2, color=styles.look(trial).colour, linewidth=1.6)


def _draw_steps(ax: Axes, shares: Sequence[float], **look: Any) -> None:
    """Empty bins fall below the axis, which has no zero."""
    baseline = ax.get_ylim()[0] if look.get("fill") else None
    ax.stairs([100 * share for share in shares], _edges(len(shares)), baseline=baseline, **look)


def _edges(bins: int) -> list[float]:
    return [index / bins for index in range(bins + 1)]


def _when(curves: SweepCurves) -> str:
    last = {max(trial.histograms) for trial in curves.trials if trial.histograms}
    return f"at step {max(last)}" if len(last) == 1 else "at the last step of each trial"
