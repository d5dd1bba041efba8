"""The mailbox of a sweep: a small actor through which trials tell the coordinator what happened, and drivers hand
trials to their workers.

Events wait in memory. A mailbox that dies takes unread events with it; the files a trial writes beside its
checkpoints (`dft_sweeps.orchestration.trial_files`) hold the same facts.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.actors import ACTOR_DIED
from dft_sweeps.orchestration.cluster import ClusterUnavailable

MOST_CALLS = 100_000
"""At a time: every driver and every worker without a job waits in one."""
CLAIM_S = 10.0
"""How long a job is kept for a group that was freed for it; its driver may have died meanwhile."""
PLACED_S = 120.0
"""How long a job may take to its workers, or an evaluation to its engine, before a group that waits gives way: it may
hold what they lack. On a busy machine workers take more than a minute to start."""
AN_ENGINE = "an engine"
"""Told in place of a training id, where it is an engine that waits for a place."""


@dataclass(frozen=True)
class StepRow:
    """What was measured of the policy after one optimizer step; of the initial one there is a row of step 0 at most."""

    step: int
    timestamp_ms: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepRows:
    training_id: str
    rows: tuple[StepRow, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Weights due for evaluation: those after `step` optimizer steps, in a model directory."""

    step: int
    directory: str
    weights_digest: str
    canary: Canary


@dataclass(frozen=True)
class CheckpointWritten:
    training_id: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class WorkersUp:
    """The trial's workers have their places and begin its job; to read what earlier attempts left may take long."""

    training_id: str


@dataclass(frozen=True)
class TrialStarted:
    """The trial's worker is up and has settled where it begins."""

    training_id: str
    driver_started_ms: int
    worker_started_ms: int
    resumed_at: int
    """The step whose state it takes up; 0 when it starts from nothing."""
    note: str
    """Why it starts from nothing although an earlier attempt left something; empty otherwise."""


@dataclass(frozen=True)
class TrialProvenance:
    """What can change a trial's bits but not its mathematics, as tags of its MLflow run."""

    training_id: str
    tags: dict[str, str]


@dataclass(frozen=True)
class TrialNote:
    """A line of progress."""

    training_id: str
    text: str


@dataclass(frozen=True)
class NonFinite:
    """The loss or gradient of a batch was not finite; the trial fails."""

    training_id: str
    step: int
    record_file: str
    """Tells which batch, in JSON."""


@dataclass(frozen=True)
class TrialInterrupted:
    """An attempt ended with an error; the trial is taken up again as often as its spec says."""

    training_id: str
    reason: str


@dataclass(frozen=True)
class JobDone:
    """The trial has trained as far as its job says, or failed before, and its workers are free."""

    training_id: str


@dataclass(frozen=True)
class TrialFailed:
    """Training ended, for a reason that would end it again."""

    training_id: str
    reason: str


Event = (
    StepRows
    | CheckpointWritten
    | WorkersUp
    | TrialStarted
    | TrialProvenance
    | TrialNote
    | NonFinite
    | TrialInterrupted
    | TrialFailed
    | JobDone
)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


@dataclass
class _Group:
    """Of workers that train one trial after another."""

    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    jobs: list[list[Any]] = field(default_factory=list)
    done: int = 0


class Mailbox:
    def __init__(self, untrained: Collection[str] = ()) -> None:
        """`untrained` are the training ids of the trials to be trained."""
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._groups: defaultdict[str, _Group] = defaultdict(_Group)
        self._ready, self._untrained = set(untrained), set(untrained)
        self._training: set[str] = set()
        """Training ids of the trials that a group was given and has not done."""
        self._done: set[tuple[str, int | None]] = set()
        """Training ids and last steps of the jobs that are done."""
        self._unplaced: dict[str, float] = {}
        """What waits for a place (`expect`), with the time since when, or since a group gave way to it."""
        self._idle = 0
        """Groups that wait for a job."""
        self._claims: dict[str, float] = {}
        """Groups that were freed for a job and were not given it yet, with the time of that."""
        self._expected = asyncio.Condition()

    async def put(self, event: Event) -> None:
        self._events.append(event)
        self._arrived.set()

    async def take(self, timeout_s: float) -> list[Event]:
        """All events since the last call, in order of arrival; waits up to `timeout_s` for the first."""
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            return []
        self._arrived.clear()
        events, self._events = self._events, []
        return events

    async def hand_over(self, group: str, training_id: str, until: int | None, job: list[Any]) -> bool:
        """Gives a group of workers its next job, which leads a trial to the step `until`. False if that is done: who
        handed it over before has died since, and the group waits for another."""
        self._ready.discard(training_id)
        self._claims.pop(group, None)
        if (training_id, until) in self._done:
            return False
        self._training.add(training_id)
        await self._give(group, job)
        return True

    async def end(self, group: str) -> None:
        """Ends a group of workers that waits for a job."""
        await self._give(group, [])

    async def _give(self, group: str, job: list[Any]) -> None:
        async with (known := self._groups[group]).changed:
            known.jobs.append(job)
            known.changed.notify_all()

    async def job(self, group: str, number: int) -> list[Any]:
        """The group's job of this number, once there is one; every worker asks for it. An empty list ends the group."""
        async with (known := self._groups[group]).changed:
            await known.changed.wait_for(lambda: len(known.jobs) > number)
            return known.jobs[number]

    async def done(self, group: str, training_id: str, until: int | None) -> None:
        """Says that the group's present job is done. Two groups do one job where the first one's driver died; that the
        second has done it is no news, for the trial may have a further job by now."""
        if (training_id, until) not in self._done:
            self._training.discard(training_id)
            self._done.add((training_id, until))
            await self.put(JobDone(training_id))
        async with (known := self._groups[group]).changed:
            known.done += 1
            known.changed.notify_all()

    async def expect(self, ready: Collection[str], untrained: Collection[str], unplaced: Collection[str]) -> None:
        """Says which trials wait for Tune, which train or may yet train, and what waits for a place on the cluster:
        trials whose jobs Tune has and no workers, and `AN_ENGINE`."""
        async with self._expected:
            self._ready, self._untrained = set(ready), set(untrained)
            now = time.monotonic()
            self._unplaced = {id_: self._unplaced.get(id_, now) for id_ in unplaced}
            self._expected.notify_all()

    async def freed(self, group: str) -> bool:
        """Returns once there is a job for this group, which then gets one; False if none will come: it is to end."""
        async with self._expected:
            self._idle += 1
            await self._expected.wait_for(lambda: self._unclaimed() or self._superfluous() or self._overdue())
            self._idle -= 1
            if self._unclaimed():
                self._claims[group] = time.monotonic()
                return True
            for waiting in self._overdue()[:1]:
                self._unplaced[waiting] = time.monotonic()  # the next group gives way only if this one was not enough
            return False

    def _unclaimed(self) -> bool:
        now = time.monotonic()
        return len(self._ready) > sum(now - at < CLAIM_S for at in self._claims.values())

    def _overdue(self) -> list[str]:
        """What has waited for a place for so long that a group gives way."""
        now = time.monotonic()
        return [id_ for id_, since in self._unplaced.items() if now - since >= PLACED_S]

    def _superfluous(self) -> bool:
        """Whether there are more groups than trials for them."""
        return self._idle + len(self._training & self._untrained) > len(self._untrained)

    async def wait_done(self, group: str, number: int) -> None:
        """Returns when the group's job of this number is done."""
        async with (known := self._groups[group]).changed:
            await known.changed.wait_for(lambda: known.done > number)


def start_mailbox(untrained: Collection[str] = ()) -> ray.actor.ActorHandle:
    """For the trials to be trained. On the coordinator's own node, so that no other node takes it along."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": MOST_CALLS, "scheduling_strategy": here}
    return ray.remote(Mailbox).options(**options).remote(tuple(untrained))


def take_events(mailbox: ray.actor.ActorHandle, timeout_s: float) -> list[Event]:
    """All events since the last call; waits up to `timeout_s` for the first.

    Raises:
        ClusterUnavailable: the mailbox has died.
    """
    try:
        events: list[Event] = ray.get(mailbox.take.remote(timeout_s))
    except ACTOR_DIED as error:
        raise ClusterUnavailable("the sweep's mailbox has died; the same command takes the sweep up again") from error
    return events
