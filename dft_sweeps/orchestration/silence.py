"""A warning when all work of a sweep has been silent for long: waiting for resources looks like that."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

ALARM_S = 300.0


class Silence:
    """Since anything was last heard of trials and engines."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._heard_at = time.monotonic()

    def broken(self) -> None:
        self._heard_at = time.monotonic()

    def warn(self, untrained: int, evaluating: int) -> None:
        """Says so every `ALARM_S` of silence while there is something to do."""
        seconds = time.monotonic() - self._heard_at
        if not (untrained or evaluating) or seconds <= ALARM_S:
            return
        self.broken()
        free = {kind: amount for kind, amount in ray.available_resources().items() if kind in {"CPU", "GPU"}}
        self._say(
            "sweep",
            f"WARNING: nothing was heard for {seconds:.0f} s of {untrained} trials to train and {evaluating} "
            f"evaluations; free now: {free}. `ray status` shows what waits for resources",
        )
