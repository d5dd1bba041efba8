"""Which trial trains next, and how far: asynchronous successive halving (algorithm 2 of Li et al. 2020, arXiv
1810.05934).

A trial trains to a rung, is measured there and waits without workers. A free slot promotes, from the highest rung down,
the best waiting trial among the best `1 / reduction_factor` of those measured at its rung; with none, it starts a new
trial. The paper's configurations never run out; here they do: once no trial can reach a rung any more, those that are
not promoted there are stopped, but the best of a group always goes on. Without rungs every trial trains to its end.

Pure state in memory, thread-safe. It is rebuilt from what MLflow holds of the trials.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """A trial's way to its next rung, or to its end."""

    training_id: str
    until: int
    """Optimizer step."""
    after: int = 0
    """The rung where it waited before; 0 for none."""


class Phase(enum.Enum):
    QUEUED = enum.auto()
    """Waits for workers, whatever others do."""
    TRAINING = enum.auto()
    PARKED = enum.auto()
    """At a rung, without workers; measured there, or about to be."""
    STOPPED = enum.auto()
    TRAINED = enum.auto()
    FAILED = enum.auto()


_ALIVE = (Phase.QUEUED, Phase.TRAINING, Phase.PARKED)


@dataclass
class Contender:
    """A trial as the scheduler sees it."""

    training_id: str
    last_step: int
    group: Hashable = ()
    """Trials compete within theirs."""
    level: int = 0
    """How many rungs it was promoted at: it trains to, or waits at, the one of this index."""
    phase: Phase = Phase.QUEUED
    values: dict[int, float] = field(default_factory=dict)
    """Accuracy by optimizer step."""

    def waits_at(self, level: int) -> bool:
        return self.phase is Phase.PARKED and self.level == level


class Halving:
    def __init__(
        self, contenders: Iterable[Contender], rungs: Sequence[int] = (), reduction_factor: float = 3.0
    ) -> None:
        """`contenders` in the order in which they start; `rungs` rise and are below every last step."""
        self._trials = {trial.training_id: trial for trial in contenders}
        self._rungs, self._factor = tuple(rungs), reduction_factor
        self._order = {training_id: index for index, training_id in enumerate(self._trials)}
        self._groups: dict[Hashable, list[Contender]] = {}
        for trial in self._trials.values():
            assert all(rung < trial.last_step for rung in rungs), (trial, rungs)
            self._groups.setdefault(trial.group, []).append(trial)
        self._changed = threading.Condition()
        self._none_ready = False
        """Whether nothing changed since no job was found."""

    # --- what happens -------------------------------------------------------------------------------------------------

    def observe(self, training_id: str, step: int, accuracy: float) -> None:
        """A trial was measured. Other steps than rungs are of no consequence."""
        with self._change():
            self._trials[training_id].values[step] = accuracy

    def arrived(self, training_id: str, whole: bool = False) -> Phase:
        """A trial has trained as far as its job says, or is a `whole` one: it is PARKED now, or TRAINED. Where it ended
        before, it stays so."""
        with self._change():
            trial = self._trials[training_id]
            if trial.phase in _ALIVE:
                trial.level = len(self._rungs) if whole else trial.level
                trial.phase = Phase.PARKED if trial.level < len(self._rungs) else Phase.TRAINED
            return trial.phase

    def failed(self, training_id: str) -> None:
        """A trial will not go on, and competes no more."""
        with self._change():
            self._trials[training_id].phase = Phase.FAILED

    def withdraw(self, training_id: str) -> bool:
        """As `failed`, unless the trial trains just now: then nothing changes."""
        with self._change():
            trial = self._trials[training_id]
            if trial.phase is Phase.TRAINING:
                return False
            trial.phase = Phase.FAILED
            return True

    # --- what follows -------------------------------------------------------------------------------------------------

    def next_job(self, wait_s: float = 0.0) -> Job | None:
        """The job for a free slot, which is taken with that; None where there is none as yet, after `wait_s`."""
        with self._changed:
            if self._none_ready and wait_s:
                self._changed.wait(wait_s)
            if self._none_ready:
                return None
            job = next(self._jobs(), None)
            self._none_ready = job is None
            if job is not None:
                trial = self._trials[job.training_id]
                trial.level += trial.phase is Phase.PARKED
                trial.phase = Phase.TRAINING
            return job

    def ready(self) -> frozenset[str]:
        """Training ids of the jobs that there are now."""
        with self._changed:
            return frozenset(job.training_id for job in self._jobs())

    def next_rung(self, training_id: str) -> int | None:
        """The first at which a trial was not promoted yet, if there is one."""
        with self._changed:
            level = self._trials[training_id].level
            return self._rungs[level] if level < len(self._rungs) else None

    def trains(self, training_id: str, until: int) -> bool:
        """Whether the job that leads a trial to this step is under way."""
        with self._changed:
            trial = self._trials[training_id]
            return trial.phase is Phase.TRAINING and self._job(trial, trial.level).until == until

    def untrained(self) -> frozenset[str]:
        """Training ids of the trials that train or may yet train."""
        with self._changed:
            return frozenset(trial.training_id for trial in self._trials.values() if trial.phase in _ALIVE)

    def started(self) -> frozenset[str]:
        """Training ids of the trials whose jobs are under way."""
        with self._changed:
            return frozenset(id_ for id_, trial in self._trials.items() if trial.phase is Phase.TRAINING)

    @property
    def over(self) -> bool:
        """Whether there is no job now and none will come."""
        with self._changed:
            return all(
                trial.phase is Phase.TRAINING and trial.level == len(self._rungs)
                for trial in self._trials.values()
                if trial.phase in _ALIVE
            )

    def stop(self) -> dict[str, int]:
        """Stops the trials whose verdicts have fallen: training id to the rung."""
        with self._change():
            stopped = {}
            for group in self._groups.values():
                for level, rung in enumerate(self._rungs):
                    if not self._closed(group, level):
                        break
                    chosen = {trial.training_id for trial in self._promotable(group, level)}
                    for trial in group:
                        if trial.waits_at(level) and trial.training_id not in chosen:
                            trial.phase = Phase.STOPPED
                            stopped[trial.training_id] = rung
            return stopped

    def _jobs(self) -> Iterator[Job]:
        """In the order in which they are to be done."""
        for level in reversed(range(len(self._rungs) + 1)):
            for trial in self._trials.values():
                if trial.phase is Phase.QUEUED and trial.level == level:
                    yield self._job(trial, level)
            for group in self._groups.values() if level else ():
                for trial in self._promotable(group, level - 1):
                    yield self._job(trial, level)

    def _job(self, trial: Contender, level: int) -> Job:
        until = (*self._rungs, trial.last_step)[level]
        return Job(trial.training_id, until, self._rungs[level - 1] if level else 0)

    def _promotable(self, group: Sequence[Contender], level: int) -> list[Contender]:
        """Those that wait at a rung and are to go on, the best first."""
        rung = self._rungs[level]
        measured = [trial for trial in group if rung in trial.values and trial.phase is not Phase.FAILED]
        ranked = sorted(measured, key=lambda trial: (-trial.values[rung], self._order[trial.training_id]))
        places = int(len(ranked) / self._factor + 1e-9)
        chosen = [trial for trial in ranked[:places] if trial.waits_at(level)]
        went_on = any(trial.level > level and trial.phase is not Phase.FAILED for trial in group)
        if not chosen and not went_on and self._closed(group, level):
            return [trial for trial in ranked if trial.waits_at(level)][:1]
        return chosen

    def _closed(self, group: Sequence[Contender], level: int) -> bool:
        """Whether no trial can reach the rung any more, and all that wait there are measured."""
        rung = self._rungs[level]
        return all(
            trial.level > level or (trial.level == level and trial.phase is Phase.PARKED and rung in trial.values)
            for trial in group
            if trial.phase in _ALIVE
        )

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._none_ready = False
            self._changed.notify_all()
