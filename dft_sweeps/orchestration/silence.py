"""Warnings when a sweep, or the job of one trial, has been silent for long: waiting for resources looks like that."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import ray

from dft_sweeps.orchestration.trial_state import TrialState

ALARM_S = 300.0


class Silence:
    """Since anything was last heard of trials and engines, and since each trial has been without a metric."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._heard_at = time.monotonic()
        self._without_metric: dict[str, tuple[float, float]] = {}
        """By training id: since when, and when the last warning fell."""

    def broken(self) -> None:
        self._heard_at = time.monotonic()

    def warn(self, running: Collection[TrialState], leasing: bool) -> None:
        """Says so every `ALARM_S` of silence while there is something to do."""
        if leasing and all(state.trained or state.outstanding for state in running):
            self.broken()  # a checkpoint may take long, and an engine that hangs is replaced
        untrained = sum(not state.trained for state in running)
        evaluating = sum(len(state.outstanding) for state in running)
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

    def warn_of_trials(self, under_way: Collection[TrialState]) -> None:
        """Says so every `ALARM_S` of each trial that has a slot and no metric of its job as yet, whatever is heard of
        others."""
        now = time.monotonic()
        waiting = {state.prepared.training_id: state for state in under_way if not state.measured}
        self._without_metric = {id_: self._without_metric.get(id_, (now, now)) for id_ in waiting}
        for id_, (since, warned) in self._without_metric.items():
            if now - warned > ALARM_S:
                self._without_metric[id_] = since, now
                name, seconds = waiting[id_].prepared.trial.name, now - since
                up = "up" if waiting[id_].up else "not up; `ray status` shows what waits for resources"
                self._say("train", f"{name}: WARNING: no metric of its job in {seconds:.0f} s; its workers are {up}")
