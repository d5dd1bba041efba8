"""The figures of a sweep: accuracy and training curves against the optimizer step, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, TrialCurves
from dft_sweeps.report.layout import Page, lay_out
from dft_sweeps.report.style import BASE_LINE, RC, Look, Styles
from dft_sweeps.report.tables import grader_of
from dft_sweeps.tracking.names import AVERAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(curves: SweepCurves, sampling: Sampling) -> Figure | None:
    """Accuracy in percent against the optimizer step, a panel per benchmark; None if nothing is measured."""
    limits = _accuracy_limits(curves, sampling)
    if limits is None:
        return None

    def draw(ax: Axes, benchmark: str, trials: Sequence[TrialCurves], styles: Styles) -> None:
        measured = [(trial, trial.accuracy[sampling.prefix, benchmark]) for trial in trials]
        for base in {points[0].accuracy for _, points in measured if points and points[0].step == 0}:
            ax.axhline(100 * base, zorder=1.5, **BASE_LINE)
        for trial, points in measured:
            _draw_accuracy(ax, points, styles.look(trial))
        ax.set_ylim(limits)
        _show_steps(ax)

    page = Page(
        title=f"{curves.name}: accuracy",
        subtitle=f"{sampling.name}: {sampling.label}",
        panels={name: "average of the benchmarks" if name == AVERAGE else name for name in curves.benchmarks},
        x_label="optimizer step",
        y_label="accuracy (%)",
        share_y="all",
        lines="marked",
        base=BASE_LINE,
        notes=[
            f"Bands: for new questions, by the grader {grader_of(curves, curves.benchmarks[0])}.",
            *curves.accuracy_notes,
            *curves.notes,
        ],
    )
    return lay_out(curves, page, draw)


def training_figure(curves: SweepCurves) -> Figure | None:
    """The training loss against the optimizer step; None where nothing is trained yet."""
    longest = max((len(points) for trial in curves.trials for points in trial.training.values()), default=0)
    if longest == 0:
        return None
    window = 2 * (longest // 30) + 1
    smoothing = [f"Strong lines: centred mean over {window} steps; pale lines: every step."] if window > 1 else []

    def draw(ax: Axes, key: str, trials: Sequence[TrialCurves], styles: Styles) -> None:
        for trial in trials:
            _draw_training(ax, trial.training[key], window, styles.look(trial))
        _show_steps(ax)

    page = Page(
        title=f"{curves.name}: training",
        subtitle="means over the target tokens of each optimizer batch",
        panels={"nll": "negative log-likelihood", "objective": "objective, as minimised"},
        x_label="optimizer step",
        y_label="nats per token",
        share_y="col",
        lines="plain",
        base=None,
        notes=[*smoothing, *curves.notes],
    )
    return lay_out(curves, page, draw)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes `stem` as ``.png`` (150 dots per inch) and ``.svg`` (text as text)."""
    import matplotlib

    paths = [Path(f"{stem}.png"), Path(f"{stem}.svg")]
    with matplotlib.rc_context(RC):
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _accuracy_limits(curves: SweepCurves, sampling: Sampling) -> tuple[float, float] | None:
    """One range in percent for all panels, so that they compare; None where nothing is measured."""
    points = [
        point
        for trial in curves.trials
        for key, curve in trial.accuracy.items()
        if key[0] == sampling.prefix
        for point in curve
    ]
    ends = [100 * end for point in points for end in (point.accuracy, point.low, point.high) if end is not None]
    if not ends:
        return None
    margin = max(1.0, 0.04 * (max(ends) - min(ends)))
    return min(ends) - margin, max(ends) + margin


def _show_steps(ax: Axes) -> None:
    ax.locator_params(axis="x", integer=True, nbins=6, min_n_ticks=1)
    if ax.dataLim.width < 1:  # nothing beyond one step, perhaps nothing at all
        ax.set_xlim(-1, 1)


def _draw_accuracy(ax: Axes, points: Sequence[Measured], look: Look) -> None:
    ax.plot(
        [point.step for point in points],
        [100 * point.accuracy for point in points],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    known = [point for point in points if point.low is not None and point.high is not None]
    ax.fill_between(
        [point.step for point in known],
        [100 * (point.low or 0.0) for point in known],
        [100 * (point.high or 0.0) for point in known],
        color=look.colour,
        alpha=0.13,
        linewidth=0,
    )


def _draw_training(ax: Axes, points: Sequence[tuple[int, float]], window: int, look: Look) -> None:
    steps, values = [step for step, _ in points], [value for _, value in points]
    if window > 1:
        ax.plot(steps, values, color=look.colour, linewidth=0.7, alpha=0.3)
    ax.plot(steps, _running_mean(values, window), color=look.colour, linestyle=look.line)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the odd `window` of values around each one; over fewer at both ends."""
    half = window // 2
    around = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(near) / len(near) for near in around]
