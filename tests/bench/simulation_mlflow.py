"""What MLflow takes on this machine: seconds of a request that writes, and of every row in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from dft_sweeps.tracking.writer import METRICS_PER_BATCH, MetricRow, Tracker

STEP_ROWS = 11
"""Of one optimizer step, the smallest request."""
REPEATED = 60
WARM_S = 15.0
"""A server answers when the first of its processes is up; until all are, they take each other's time."""


class Taken(NamedTuple):
    batch_s: float
    row_s: float

    @property
    def steps_per_s(self) -> float:
        """Rows a second in requests of one optimizer step each."""
        return STEP_ROWS / (self.batch_s + STEP_ROWS * self.row_s)

    @property
    def most_per_s(self) -> float:
        """In requests of as many rows as MLflow takes at once: so the background writer sends when it is behind."""
        return METRICS_PER_BATCH / (self.batch_s + METRICS_PER_BATCH * self.row_s)


def taken(uri: str, artifacts: str | None) -> Taken:
    """Medians of many requests, by the writer's own tracker."""
    tracker = Tracker(uri, artifacts)
    parent = tracker.open_sweep("bench", "s-bench", "", [{"training_id": "t", "name": "t", "axes": {}}], "m")
    run = tracker.open_trial(parent, "t", "trial", {}, {})

    def send(number: int, count: int) -> Callable[[], None]:
        rows = [MetricRow(f"train/{index % STEP_ROWS}", number * 1000 + index, 0.5, number) for index in range(count)]
        return lambda: tracker.send(run, rows)

    warm = time.monotonic() + WARM_S
    while time.monotonic() < warm:
        send(REPEATED, STEP_ROWS)()
    small = median(_seconds(send(number, STEP_ROWS)) for number in range(REPEATED))
    large = median(_seconds(send(number, METRICS_PER_BATCH)) for number in range(REPEATED, REPEATED + REPEATED // 5))
    row_s = max(0.0, large - small) / (METRICS_PER_BATCH - STEP_ROWS)
    return Taken(small - STEP_ROWS * row_s, row_s)


def _seconds(work: Callable[[], None]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before
