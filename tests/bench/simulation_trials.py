"""The training side of a simulated sweep: Ray Tune that admits trials one by one, and trials that report as real ones.

Takes the places of `training`, `start_mailbox` and `take_events` in the coordinator.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.halving import Halving
from dft_sweeps.orchestration.mailbox import (
    Checkpoint,
    CheckpointWritten,
    Event,
    JobDone,
    StepRow,
    StepRows,
    TrialProvenance,
    TrialStarted,
)
from dft_sweeps.orchestration.reporter import SEND_EVERY_S
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.orchestration.tuning import TrainingEnded
from dft_sweeps.tracking import names
from tests.bench.simulation_clock import EPOCH_S, Clock, SimpleQueue, Thread
from tests.bench.simulation_services import Costs, Gpus, Speeds

LOOK_S = 0.25
"""Between two looks of the coordinator into its mailbox, at the least."""
CANARY = Canary(((1, 2),), ((-1.0,),))
METRICS = [names.train_metric(name) for name in names.TRAIN_METRICS if name != "reference_kl"]

Due = tuple[float, Event]


@dataclass(frozen=True)
class Length:
    """Of one trial, in seconds on its slot."""

    start: float
    train: float
    """From its first step to the last."""
    write: float
    """Until its last checkpoint is announced."""

    @property
    def held(self) -> float:
        return self.start + self.train + self.write


def length_of(training_id: str, samples: int, speeds: Speeds) -> Length:
    """The same for the same seed, whatever the order of the trials."""
    drawn = random.Random(f"{speeds.seed} {training_id}").uniform(-1.0, 1.0)
    return Length(speeds.trial_start_s, samples / speeds.samples_per_s * (1 + speeds.jitter * drawn), speeds.write_s)


def reports(job: TrialJob, began: float, workers: float, length: Length, write_s: float) -> Iterator[Due]:
    """What a trial tells the coordinator, each with its time: as `orchestration.worker` and its reporter do.

    Args:
        began: when its driver was started, in virtual seconds. workers: when its processes were up.
    """
    id_, last = job.training_id, job.last_step
    step_s = length.train / last
    bins = [names.probability_bin(index) for index in range(len(job.spec.evaluation.histogram.edges) - 1)]
    yield workers, TrialStarted(id_, _ms(began), _ms(workers), 0, "")
    at = workers + length.start
    yield at, TrialProvenance(id_, {"dft.device": "simulated"})
    yield at, CheckpointWritten(id_, Checkpoint(0, job.model_directory, job.base_digest, CANARY))
    waiting: list[StepRow] = [StepRow(0, _ms(at), dict.fromkeys(bins, 0.1))]
    sent, writing = at, list[tuple[float, int]]()
    for step in range(1, last + 1):
        at += step_s
        metrics = dict.fromkeys(METRICS, 1.0 / step) | ({names.train_metric("tokens"): float(step)})
        evaluated = step in job.evaluated_steps
        waiting.append(StepRow(step, _ms(at), metrics | (dict.fromkeys(bins, 0.1) if evaluated else {})))
        written = [each for each in writing if each[0] <= at]
        if at - sent >= SEND_EVERY_S or written or evaluated:
            yield at, StepRows(id_, tuple(waiting))
            waiting, sent = [], at
        for _, of in written:
            yield at, _written(job, of)
        writing = [each for each in writing if each not in written]
        if evaluated:
            writing.append((at + write_s, step))
    for end, of in writing:
        at = max(at, end)
        yield at, _written(job, of)
    yield at, TrialProvenance(id_, {names.HANDING_OVER_TAG: "0.0"})
    yield at, JobDone(id_)


def _written(job: TrialJob, step: int) -> CheckpointWritten:
    digest = f"{job.training_id}-{step}"
    return CheckpointWritten(job.training_id, Checkpoint(step, f"{job.storage}/{digest}", digest, CANARY))


def _ms(seconds: float) -> int:
    return int((EPOCH_S + seconds) * 1000)


class Mailbox:
    """Events in the order of their times, made when they are due."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._coming: list[tuple[float, int, Event, Iterator[Due]]] = []
        self._numbers = itertools.count()
        self._more: SimpleQueue[None] = SimpleQueue(clock)
        self.events = 0
        self.most_per_s = 0
        self._second = (0, 0)
        self.expect = SimpleNamespace(remote=lambda *told: None)
        """What groups of workers are told is of no consequence: slots know by themselves."""

    def post(self, events: Iterator[Due]) -> None:
        self._push(events)
        self._more.put(None)

    def take(self, timeout_s: float) -> list[Event]:
        """As `Mailbox.take`: all there is, or what comes first within the time."""
        self._clock.sleep(LOOK_S)
        until = self._clock.now + timeout_s
        while self._clock.now < until and not self._due():
            soonest = min(until, self._coming[0][0]) if self._coming else until
            with contextlib.suppress(queue.Empty):
                self._more.get(timeout=soonest - self._clock.now)
        found = []
        while self._due():
            at, _, event, rest = heapq.heappop(self._coming)
            found.append(event)
            self._count(at)
            self._push(rest)
        return found

    def _due(self) -> bool:
        return bool(self._coming) and self._coming[0][0] <= self._clock.now

    def _push(self, events: Iterator[Due]) -> None:
        for at, event in itertools.islice(events, 1):
            heapq.heappush(self._coming, (at, next(self._numbers), event, events))

    def _count(self, at: float) -> None:
        second, count = self._second
        self._second = (int(at), count + 1 if second == int(at) else 1)
        self.most_per_s = max(self.most_per_s, self._second[1])
        self.events += 1


class Tune:
    """Admits trials as the real `Halving` gives them, `tune_trial_s` each and one at a time, to slots whose workers
    stay up. For sweeps whose trials all train to their ends."""

    def __init__(self, clock: Clock, speeds: Speeds, costs: Costs, gpus: Gpus, lengths: Mapping[str, Length]) -> None:
        self._clock, self._speeds, self._costs, self._gpus = clock, speeds, costs, gpus
        self._lengths = lengths
        self.busy_s = 0.0
        """Of all slots, from when a trial is admitted."""

    @contextlib.contextmanager
    def training(
        self, jobs: Sequence[TrialJob], mailbox: Mailbox, concurrent: int, directory: Path, ended: Any, halving: Halving
    ) -> Iterator[None]:
        Thread(self._clock, self._run, (jobs, mailbox, concurrent, ended, halving)).start()
        yield

    def _run(self, jobs: Sequence[TrialJob], mailbox: Mailbox, concurrent: int, ended: Any, halving: Halving) -> None:
        by_id = {job.training_id: job for job in jobs}
        running: list[float] = []
        gpus = jobs[0].execution.workers * jobs[0].execution.gpus_per_worker
        for number in range(len(jobs)):
            given = halving.next_job()
            assert given is not None, "every trial is ready from the start"
            warm = number >= concurrent
            if warm:
                self._clock.sleep(heapq.heappop(running) - self._clock.now)
            else:
                assert self._gpus.take(gpus), "the slots were counted by `placement`"
            self._clock.sleep(self._costs.tune_trial_s)
            now = self._clock.now
            workers = now + (0.0 if warm else self._speeds.workers_start_s)
            length = self._lengths[given.training_id]
            mailbox.post(reports(by_id[given.training_id], now, workers, length, self._speeds.write_s))
            heapq.heappush(running, workers + length.held)
            self.busy_s += workers + length.held - now
        while running:
            self._clock.sleep(heapq.heappop(running) - self._clock.now)
            self._gpus.give(gpus)
        for job in jobs:
            ended.put(TrainingEnded(job.training_id, None))
