"""The mailbox of a sweep: a small actor through which trials tell the coordinator what happened, and drivers hand
trials to their workers.

Events wait in memory. A mailbox that dies takes unread events with it; the files a trial writes beside its
checkpoints (`dft_sweeps.orchestration.trial_files`) hold the same facts.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.cluster import ClusterUnavailable

MOST_CALLS = 100_000
"""At a time: every driver and every worker without a job waits in one."""


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
    record_file: str
    """Tells which batch, in JSON."""


@dataclass(frozen=True)
class TrialInterrupted:
    """An attempt ended with an error; the trial is taken up again as often as its spec says."""

    training_id: str
    reason: str


@dataclass(frozen=True)
class TrialFailed:
    """Training ended, for a reason that would end it again."""

    training_id: str
    reason: str


Event = (
    StepRows
    | CheckpointWritten
    | TrialStarted
    | TrialProvenance
    | TrialNote
    | NonFinite
    | TrialInterrupted
    | TrialFailed
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
    def __init__(self, training_ids: Sequence[str] = ()) -> None:
        """`training_ids` are those of the trials to be trained."""
        self._events: list[Event] = []
        self._arrived = asyncio.Event()
        self._unstarted = set(training_ids)
        self._groups: defaultdict[str, _Group] = defaultdict(_Group)

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

    async def hand_over(self, group: str, training_id: str, job: list[Any]) -> None:
        """Gives a group of workers its next job; an empty list ends it."""
        self._unstarted.discard(training_id)
        async with (known := self._groups[group]).changed:
            known.jobs.append(job)
            known.changed.notify_all()

    async def job(self, group: str, number: int) -> list[Any]:
        """The group's job of this number, once there is one; every worker asks for it."""
        async with (known := self._groups[group]).changed:
            await known.changed.wait_for(lambda: len(known.jobs) > number)
            return known.jobs[number]

    async def done(self, group: str) -> None:
        """Says that the group's present job is done."""
        async with (known := self._groups[group]).changed:
            known.done += 1
            known.changed.notify_all()

    async def unstarted(self) -> int:
        """Trials that no group was given yet."""
        return len(self._unstarted)

    async def wait_done(self, group: str, number: int) -> None:
        """Returns when the group's job of this number is done."""
        async with (known := self._groups[group]).changed:
            await known.changed.wait_for(lambda: known.done > number)


def start_mailbox(training_ids: Sequence[str] = ()) -> ray.actor.ActorHandle:
    """For the trials to be trained. On the coordinator's own node, so that no other node takes it along."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_concurrency": MOST_CALLS, "scheduling_strategy": here}
    return ray.remote(Mailbox).options(**options).remote(tuple(training_ids))


def take_events(mailbox: ray.actor.ActorHandle, timeout_s: float) -> list[Event]:
    """All events since the last call; waits up to `timeout_s` for the first.

    Raises:
        ClusterUnavailable: the mailbox has died.
    """
    try:
        events: list[Event] = ray.get(mailbox.take.remote(timeout_s))
    except ray.exceptions.RayActorError as error:
        raise ClusterUnavailable("the sweep's mailbox has died; the same command takes the sweep up again") from error
    return events
