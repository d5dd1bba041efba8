"""The best trial and step of a sweep, and what that choice does to the number reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from dft_sweeps.evaluation.intervals import LEVEL
from dft_sweeps.evaluation.selection import selection_bias
from dft_sweeps.report.curves import Measured, Sampling, SweepCurves, TrialCurves


@dataclass(frozen=True)
class Best:
    """The checkpoint of the highest headline accuracy; shares in [0, 1]."""

    sampling: str
    benchmark: str
    """The headline: ``average``, or the only benchmark."""
    trial: str
    """Or the cell, where there are several seeds."""
    step: int
    accuracy: float
    low: float | None
    high: float | None
    candidates: int
    """Checkpoints it was chosen from; the base model is one of them."""
    selection_accuracy: float | None
    """On the held-out questions that it was chosen on; None where it was chosen on those that measure it."""
    standard_error: float | None
    bias: float | None
    """How far the accuracy is too high at most, on average, where all candidates are equally good; 0 where it was
    chosen on held-out questions, None where no interval is known."""
    arm: str | None = None
    """Of a search: what it was made for apart, empty where that is all. The candidates are its points, at their last
    steps; None where they are checkpoints."""


def best_step(curves: SweepCurves, sampling: Sampling, cell: TrialCurves) -> int | None:
    """The step of a cell whose headline accuracy is highest (the first of them), on held-out questions where the sweep
    has such; None where there is no choice."""
    points = _candidates(curves, sampling, cell)
    return max(points, key=lambda point: _criterion(curves, point)).step if len(points) > 1 else None


def best(curves: SweepCurves, sampling: Sampling) -> Best | None:
    """The best checkpoint of all; None where there is no choice."""
    of_cells = [(cell, _candidates(curves, sampling, cell)) for cell in curves.cells]
    offered = [(cell, point) for cell, points in of_cells for point in points]
    trained = [point for _, point in offered if point.step > 0]
    candidates = len(trained) + (len(trained) < len(offered))
    if candidates < 2:
        return None
    return _chosen(curves, sampling, offered, candidates)


def best_points(curves: SweepCurves, sampling: Sampling) -> list[Best]:
    """Of a sweep with a search, the best point of each arm, among the trials that were trained to their end; none of an
    arm without a choice."""
    key = sampling.prefix, curves.benchmarks[0]
    arms: dict[str, list[tuple[TrialCurves, Measured]]] = {}
    for cell in curves.cells if curves.searched else ():
        point = last_point(cell, key)
        if point and (curves.selection_share is None or point.selection is not None):
            arms.setdefault(" ".join(cell.values[axis] for axis in curves.arm_axes), []).append((cell, point))
    return [
        replace(_chosen(curves, sampling, offered, len(offered)), arm=arm)
        for arm, offered in arms.items()
        if len(offered) > 1
    ]


def last_point(cell: TrialCurves, key: tuple[str, str]) -> Measured | None:
    """What was measured at the last step of a trial that was trained to its end."""
    return cell.accuracy[key][-1] if cell.is_whole and cell.accuracy[key] else None


def _chosen(
    curves: SweepCurves, sampling: Sampling, offered: Sequence[tuple[TrialCurves, Measured]], candidates: int
) -> Best:
    cell, point = max(offered, key=lambda each: _criterion(curves, each[1]))
    on_test = curves.selection_share is None
    error = _standard_error(point)
    return Best(
        sampling=sampling.name,
        benchmark=curves.benchmarks[0],
        trial="the base model" if point.step == 0 else cell.name,
        step=point.step,
        accuracy=point.accuracy,
        low=point.low,
        high=point.high,
        candidates=candidates,
        selection_accuracy=point.selection,
        standard_error=error,
        bias=(None if error is None else selection_bias(error, candidates)) if on_test else 0.0,
    )


def sentence(curves: SweepCurves, found: Best) -> str:
    """E.g. ``Best under sampled: objective=dft at step 20, 88.2% (85.7-90.6), ...`` and how it was chosen."""
    interval = "" if found.low is None or found.high is None else f" ({100 * found.low:.1f}-{100 * found.high:.1f})"
    value = f"{100 * found.accuracy:.1f}%{interval}"
    where = "" if found.step == 0 else f" at step {found.step}"
    point = "" if found.arm is None else f" point of {found.arm}" if found.arm else " point"
    start = f"Best{point} under {found.sampling} ({found.benchmark}): {found.trial}{where}, {value}"
    of = "checkpoints" if found.arm is None else "points at their last steps"
    if curves.selection_share is not None:
        assert found.selection_accuracy is not None
        return (
            f"{start}, measured on the questions that are not held out; chosen of {found.candidates} {of} on "
            f"the {100 * curves.selection_share:g}% that are ({100 * found.selection_accuracy:.1f}% there)."
        )
    size = ""
    if found.bias is not None and found.standard_error is not None:
        size = (
            f", on average by up to {100 * found.bias:.1f} points if all are equally good (standard error "
            f"{100 * found.standard_error:.1f} x sqrt(2 ln {found.candidates}))"
        )
    return (
        f"{start}. It was chosen of {found.candidates} {of} on the test questions themselves, and the highest "
        f"of so many is too high{size}. `evaluation.selection_share` holds questions out for the choice."
    )


def sentences(curves: SweepCurves) -> list[str]:
    """For each sampling with a choice; of a sweep with a search, for each of its arms besides."""
    found = [each for sampling in curves.samplings for each in (best(curves, sampling), *best_points(curves, sampling))]
    return [sentence(curves, each) for each in found if each is not None]


def _candidates(curves: SweepCurves, sampling: Sampling, cell: TrialCurves) -> Sequence[Measured]:
    points = cell.accuracy.get((sampling.prefix, curves.benchmarks[0]), [])
    return [point for point in points if curves.selection_share is None or point.selection is not None]


def _criterion(curves: SweepCurves, point: Measured) -> float:
    if curves.selection_share is None:
        return point.accuracy
    assert point.selection is not None
    return point.selection


def _standard_error(point: Measured) -> float | None:
    """Of the accuracy on these questions, which all candidates share; that for new questions where only it is known."""
    low, high = (point.low, point.high) if point.fixed_low is None else (point.fixed_low, point.fixed_high)
    if low is None or high is None:
        return None
    return (high - low) / 2 / NormalDist().inv_cdf((1 + LEVEL) / 2)
