"""How long a sweep takes: list scheduling of its trials and of the evaluation of their checkpoints.

Times are in seconds, and None where they are not known; so is whatever depends on them.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Evaluation(NamedTuple):
    share: float
    """Of the trial's training that is over when its weights are there, 0 to 1."""
    seconds: float | None
    """On one engine."""


@dataclass(frozen=True)
class TrialTimes:
    """One trial, alone."""

    start: float
    train: float | None
    evaluations: tuple[Evaluation, ...]

    @property
    def held(self) -> float | None:
        """How long it holds its workers."""
        return total([self.start, self.train])

    @property
    def evaluating(self) -> float | None:
        """How long its checkpoints keep an engine busy."""
        return total(each.seconds for each in self.evaluations)

    @property
    def to_last_point(self) -> float | None:
        """From its start on workers that are up to its last point, with an engine of its own."""
        return makespan([self], 1, 1)

    def in_parts(self, ends: Sequence[float], reached: Sequence[float]) -> TrialTimes:
        """The same of a trial that takes each part of its training only with some probability, on the average, and
        starts anew with each.

        Args:
            ends: shares of the training that are over after each part; the last is 1.
            reached: probability of each part, which falls.
        """
        lengths = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
        trained = sum(length * probability for length, probability in zip(lengths, reached, strict=True))
        points = []
        for share, seconds in self.evaluations:
            part = bisect_left(ends, share)
            if reached[part]:
                before = sum(length * each for length, each in zip(lengths[:part], reached, strict=False))
                at = before + reached[part] * (share - (ends[part - 1] if part else 0.0))
                points.append(Evaluation(at / trained, None if seconds is None else reached[part] * seconds))
        train = None if self.train is None else self.train * trained
        return TrialTimes(self.start * sum(reached), train, tuple(points))


class _Checkpoint(NamedTuple):
    ready: float
    share: float
    number: int
    """Of its trial."""
    seconds: float


def total(seconds: Iterable[float | None]) -> float | None:
    """Their sum; None where one of them is."""
    known = list(seconds)
    return None if None in known else sum(each for each in known if each is not None)


class Growth(NamedTuple):
    """Engines beside those that are always up."""

    room: int = 0
    """In the place of a trial, once none takes it."""
    most: int = 0


NO_GROWTH = Growth()


def makespan(
    trials: Sequence[TrialTimes], concurrent: int, engines: int, workers_start: float = 0.0, growth: Growth = NO_GROWTH
) -> float | None:
    """From when the engines are up to the last point.

    Trials start in their order, `concurrent` at a time: the first ones `workers_start` after the engines are up, and
    each of the others on the workers of one that has ended. Training never waits: checkpoints
    queue for the engines, and a free engine takes the one that is earliest in its curve, as
    `orchestration.evaluations` does. A trial's start-up is taken to be over before its first checkpoint. Not modelled:
    several engines that share one checkpoint, adapters side by side, how long a further engine takes to start, and how
    trials and engines slow one another down on shared cores.
    """
    slots = [workers_start] * min(concurrent, len(trials))
    ready: list[_Checkpoint] = []
    for number, trial in enumerate(trials):
        if trial.train is None or trial.evaluating is None:
            return None
        start = heapq.heappop(slots) + trial.start
        heapq.heappush(slots, start + trial.train)
        for share, seconds in trial.evaluations:
            assert seconds is not None
            ready.append(_Checkpoint(start + trial.train * share, share, number, seconds))
    places = [0.0] * (concurrent - len(slots)) + sorted(slots)
    further = [end for end in places for _ in range(growth.room)][: growth.most]
    return max(*slots, _evaluated(sorted(ready), [0.0] * engines + further)) if trials else 0.0


def _evaluated(coming: Sequence[_Checkpoint], free: list[float]) -> float:
    """When the last of these checkpoints, which are in order of their coming, has been evaluated.

    Args:
        free: when each engine is up, by rising time.
    """
    waiting: list[tuple[float, int, float]] = []
    last, come = 0.0, 0
    while waiting or come < len(coming):
        now = heapq.heappop(free)
        if not waiting:
            now = max(now, coming[come].ready)
        while come < len(coming) and coming[come].ready <= now:
            heapq.heappush(waiting, coming[come][1:])
            come += 1
        now += heapq.heappop(waiting)[2]
        heapq.heappush(free, now)
        last = max(last, now)
    return last
