"""What panels of accuracies are called and which range of accuracies each shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dft_sweeps.report.curves import Measured
from dft_sweeps.tracking.names import AVERAGE

LEAST_FILLED = 1 / 3
"""Of the range that all panels share; where one fills less of it, each panel has a range of its own."""


def benchmark_title(benchmark: str) -> str:
    return "average of the benchmarks" if benchmark == AVERAGE else benchmark


def accuracy_ranges(points: Mapping[str, Sequence[Measured]]) -> dict[str, tuple[float, float]]:
    """Of the panels that have points, the range in percent that holds all of them and their intervals.

    All panels have the same one, so that they compare, unless a panel's points would lie close together in it: the
    paper's benchmarks go from 2 to 65 percent.
    """
    ends = {
        key: [100 * end for point in drawn for end in (point.accuracy, point.low, point.high) if end is not None]
        for key, drawn in points.items()
        if drawn
    }
    own = {key: (min(each), max(each)) for key, each in ends.items()}
    if not own:
        return {}
    low, high = min(low for low, _ in own.values()), max(high for _, high in own.values())
    if all(top - bottom >= LEAST_FILLED * (high - low) for bottom, top in own.values()):
        own = dict.fromkeys(own, (low, high))
    return {key: _with_margin(*each) for key, each in own.items()}


def _with_margin(low: float, high: float) -> tuple[float, float]:
    margin = max(1.0, 0.04 * (high - low))
    return low - margin, high + margin
