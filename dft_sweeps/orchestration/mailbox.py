"""The mailbox of a sweep: a small actor through which trials tell the coordinator what happened.

Events wait in memory. A mailbox that dies takes unread events with it; the files a trial writes beside its
checkpoints (`dft_sweeps.orchestration.trial_files`) hold the same facts.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import ray

from dft_sweeps.evaluation.generator import Canary


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
class TrialFailed:
    """Training ended with an error. Put by the trial's driver before Tune hears of it."""

    training_id: str
    reason: str


Event = StepRows | CheckpointWritten | TrialStarted | TrialProvenance | TrialNote | NonFinite | TrialFailed


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


class Mailbox:
    def __init__(self) -> None:
        self._events: list[Event] = []
        self._arrived = asyncio.Event()

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


def start_mailbox() -> ray.actor.ActorHandle:
    return ray.remote(Mailbox).options(num_cpus=0).remote()
