"""The figures of a sweep: accuracy and training curves against the optimizer step, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, TrialCurves
from dft_sweeps.report.layout import Page, lay_out
from dft_sweeps.report.ranges import accuracy_ranges, benchmark_title
from dft_sweeps.report.style import BASE_LINE, RC, SEED_LINE, Look, Styles
from dft_sweeps.report.tables import grader_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(curves: SweepCurves, sampling: Sampling) -> Figure | None:
    """Accuracy in percent against the optimizer step, a panel per benchmark; None if nothing is measured."""
    ranges = accuracy_ranges({name: _drawn(curves, (sampling.prefix, name)) for name in curves.benchmarks})
    if not ranges:
        return None

    def draw(ax: Axes, benchmark: str, cells: Sequence[TrialCurves], styles: Styles) -> None:
        key = sampling.prefix, benchmark
        measured = [(cell, cell.accuracy[key]) for cell in cells]
        for base in {points[0].accuracy for _, points in measured if points and points[0].step == 0}:
            ax.axhline(100 * base, zorder=1.5, **BASE_LINE)
        for cell, points in measured:
            for seed in cell.seeds if len(cell.seeds) > 1 else ():
                _draw_seed(ax, [(point.step, 100 * point.accuracy) for point in seed.accuracy[key]], styles.look(cell))
            _draw_accuracy(ax, points, styles.look(cell), bands=not curves.searched)
            if cell.stopped_at is not None and points:
                _draw_stop(ax, points[-1], styles.look(cell))
        ax.set_ylim(ranges[benchmark])
        _show_steps(ax)

    page = Page(
        title=f"{curves.name}: accuracy",
        subtitle="; ".join([f"{sampling.name}: {sampling.label}", *_seeds(curves)]),
        panels={name: benchmark_title(name) for name in ranges},
        x_label="optimizer step",
        y_label="accuracy (%)",
        share_y="all" if len(set(ranges.values())) == 1 else "none",
        lines="marked",
        base=BASE_LINE,
        notes=[
            f"{'A line for each point of the search' if curves.searched else 'Bands: for new questions'}, by the "
            f"grader {grader_of(curves, curves.benchmarks[0])}.",
            *(["Thin lines: single seeds."] if curves.means else []),
            *(["Crosses: stopped there."] if any(cell.stopped_at is not None for cell in curves.cells) else []),
            *curves.accuracy_notes,
            *curves.notes,
        ],
    )
    return lay_out(curves, page, draw)


def training_figure(curves: SweepCurves) -> Figure | None:
    """The training loss against the optimizer step; None where nothing is trained yet."""
    longest = max((len(points) for cell in curves.cells for points in cell.training.values()), default=0)
    if longest == 0:
        return None
    window = 2 * (longest // 30) + 1

    def draw(ax: Axes, key: str, cells: Sequence[TrialCurves], styles: Styles) -> None:
        for cell in cells:
            look = styles.look(cell)
            for seed in cell.seeds:
                _draw_seed(ax, _smooth(seed.training[key], window), look)
            if window > 1 and not cell.seeds:
                steps, values = _unzipped(cell.training[key])
                ax.plot(steps, values, color=look.colour, linewidth=0.7, alpha=0.3)
            ax.plot(*_unzipped(_smooth(cell.training[key], window)), color=look.colour, linestyle=look.line)
        _show_steps(ax)

    page = Page(
        title=f"{curves.name}: training",
        subtitle="means over the target tokens of each optimizer batch"
        + curves.seeds_in_words.replace("means", ", and"),
        panels={"nll": "negative log-likelihood", "objective": "objective, as minimised"},
        x_label="optimizer step",
        y_label="nats per token",
        share_y="col",
        lines="plain",
        base=None,
        notes=[*_smoothing(curves, window), *curves.notes],
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


def _drawn(curves: SweepCurves, key: tuple[str, str]) -> list[Measured]:
    """Every point of a panel; of single seeds, without their intervals."""
    points = [point for cell in curves.cells for point in cell.accuracy[key]]
    seeds = [seed for cell in curves.means for seed in cell.seeds]
    return points + [Measured(point.step, point.accuracy, None, None) for each in seeds for point in each.accuracy[key]]


def _show_steps(ax: Axes) -> None:
    ax.locator_params(axis="x", integer=True, nbins=6, min_n_ticks=1)
    if ax.dataLim.width < 1:  # nothing beyond one step, perhaps nothing at all
        ax.set_xlim(-1, 1)


def _draw_accuracy(ax: Axes, points: Sequence[Measured], look: Look, bands: bool) -> None:
    """Args: `bands`: of the points of a search there are many, with much the same interval each."""
    ax.plot(
        [point.step for point in points],
        [100 * point.accuracy for point in points],
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    known = [point for point in points if bands and point.low is not None and point.high is not None]
    ax.fill_between(
        [point.step for point in known],
        [100 * (point.low or 0.0) for point in known],
        [100 * (point.high or 0.0) for point in known],
        color=look.colour,
        alpha=0.13,
        linewidth=0,
    )


def _draw_stop(ax: Axes, point: Measured, look: Look) -> None:
    ax.plot([point.step], [100 * point.accuracy], color=look.colour, marker="x", markersize=9, markeredgewidth=1.6)


def _draw_seed(ax: Axes, points: Sequence[tuple[int, float]], look: Look) -> None:
    ax.plot(*_unzipped(points), color=look.colour, linestyle=look.line, **SEED_LINE)


def _seeds(curves: SweepCurves) -> list[str]:
    return [curves.seeds_in_words] if curves.means else []


def _smoothing(curves: SweepCurves, window: int) -> list[str]:
    mean = f"centred mean over {window} steps"
    if curves.means:
        over = f"; of all a {mean}" if window > 1 else ""
        return [f"Strong lines: means over seeds, as far as all of them are; thin lines: single seeds{over}."]
    return [f"Strong lines: {mean}; pale lines: every step."] if window > 1 else []


def _unzipped(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _smooth(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    steps, values = _unzipped(points)
    return list(zip(steps, _running_mean(values, window), strict=True))


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the odd `window` of values around each one; over fewer at both ends."""
    half = window // 2
    around = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [sum(near) / len(near) for near in around]
