"""Evaluating checkpoints on leased engines, while training goes on.

One thread per engine takes the checkpoint whose point is earliest in its curve, swaps its weights in, and generates
what the store does not hold yet. Equal weights under equal evaluations are one piece of work, whoever asks for it.
An engine that fails is leased anew and the work tried again, `ATTEMPTS` times in all; each failure is reported.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import evaluation_key, generate_all, grade
from dft_sweeps.evaluation.generator import Canary, Generator
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import BenchmarkResult, EvaluationKey
from dft_sweeps.evaluation.store import CorruptEntry, EvaluationStore
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.spec.models import EvaluationSpec

ATTEMPTS = 3


class LeasedEngine(Generator, Protocol):
    def swap(self, directory: str, weights_digest: str, canary: Canary) -> object: ...


class EnginePool(Protocol):
    """What the coordinator is handed: engines to lease, one at a time per caller."""

    @property
    def replicas(self) -> int: ...

    def lease(self) -> AbstractContextManager[LeasedEngine]: ...


Results = dict[str, list[BenchmarkResult]]
"""By name of the sampling, in the order of the spec's benchmarks."""


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint of a trial was evaluated, or could not be."""

    training_id: str
    step: int
    results: Results
    seconds: float
    """From the swap to the last verdict; 0 when everything was in the store."""
    swap_seconds: float
    error: str | None = None


@dataclass
class _Work:
    checkpoint: Checkpoint
    evaluation: EvaluationSpec
    subscribers: list[tuple[str, int]]
    attempts: int = 0


@dataclass(order=True)
class _Queued:
    step: int
    number: int
    work: _Work | None = field(compare=False)


class Evaluations:
    """The evaluation side of a sweep. `landed` collects results for the coordinator's thread."""

    def __init__(
        self,
        prepared: PreparedSweep,
        store: EvaluationStore,
        pool: EnginePool,
        graders: GraderPool,
        failed_attempt: Callable[[str], None],
    ) -> None:
        self._prepared, self._store, self._pool, self._graders = prepared, store, pool, graders
        self._failed_attempt = failed_attempt
        self._queue: queue.PriorityQueue[_Queued] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], _Work] = {}
        self.landed: queue.SimpleQueue[Evaluated] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"evaluation-{index}", daemon=True)
            for index in range(pool.replicas)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, training_id: str, checkpoint: Checkpoint, evaluation: EvaluationSpec) -> None:
        """Evaluates a checkpoint of a trial; the result lands later."""
        key = (checkpoint.weights_digest, evaluation.model_dump_json())
        with self._lock:
            if key in self._pending:
                self._pending[key].subscribers.append((training_id, checkpoint.step))
                return
            work = _Work(checkpoint, evaluation, [(training_id, checkpoint.step)])
            self._pending[key] = work
        self._put(checkpoint.step, work)

    @property
    def outstanding(self) -> int:
        """Pieces of work whose result has not landed."""
        with self._lock:
            return len(self._pending)

    def close(self) -> None:
        """Lets the threads end after what they do now; nothing further is started."""
        for _ in self._threads:
            self._put(-1, None)

    def _put(self, step: int, work: _Work | None) -> None:
        self._queue.put(_Queued(step, next(self._numbers), work))

    def _serve(self) -> None:
        """One engine's thread: leases while there is work, so that nothing holds an engine idle."""
        while (work := self._queue.get().work) is not None:
            self._attempt(work, self._lease_and_evaluate)

    def _attempt(self, work: _Work, evaluate: Callable[[_Work], None]) -> None:
        work.attempts += 1
        try:
            evaluate(work)
        except CorruptEntry as error:
            self._land(work, {}, 0.0, 0.0, str(error))
        except Exception as error:  # whatever an engine, its process or Ray raises ends this attempt, not the sweep
            reason = " ".join(str(error).split())[-300:] or type(error).__name__
            if work.attempts < ATTEMPTS:
                self._failed_attempt(f"step {work.checkpoint.step}: attempt {work.attempts} failed: {reason}")
                self._put(work.checkpoint.step, work)
            else:
                self._land(work, {}, 0.0, 0.0, f"evaluation failed {ATTEMPTS} times; the last time: {reason}")

    def _lease_and_evaluate(self, work: _Work) -> None:
        wanted = list(self._wanted(work))
        known = {key.id: self._store.load_or_regrade(key, benchmark, self._graders) for _, benchmark, key in wanted}
        missing = [(benchmark, key) for _, benchmark, key in wanted if known[key.id] is None]
        started, swapped = time.monotonic(), 0.0
        if missing:
            with self._pool.lease() as engine:
                started = time.monotonic()
                checkpoint = work.checkpoint
                engine.swap(checkpoint.directory, checkpoint.weights_digest, checkpoint.canary)
                swapped = time.monotonic() - started
                pairs = [(benchmark, key.sampling) for benchmark, key in missing]
                generated = generate_all(engine, pairs, self._prepared.tokenizer)
            for (benchmark, key), completions in zip(missing, generated, strict=True):
                self._store.save_completions(completions)
                known[key.id] = grade(completions, benchmark, self._graders)
                self._store.save(known[key.id])
        results: Results = {}
        for name, _, key in wanted:
            results.setdefault(name, []).append(known[key.id])
        self._land(work, results, time.monotonic() - started if missing else 0.0, swapped)

    def _wanted(self, work: _Work) -> Iterator[tuple[str, Benchmark, EvaluationKey]]:
        for name, sampling in work.evaluation.samplings.items():
            for spec in work.evaluation.benchmarks:
                benchmark = self._prepared.benchmarks[spec.name]
                digest = work.checkpoint.weights_digest
                yield name, benchmark, evaluation_key(digest, benchmark, self._prepared.template_digest, sampling)

    def _land(self, work: _Work, results: Results, seconds: float, swapped: float, error: str | None = None) -> None:
        with self._lock:
            del self._pending[work.checkpoint.weights_digest, work.evaluation.model_dump_json()]
        for training_id, step in work.subscribers:
            self.landed.put(Evaluated(training_id, step, results, seconds, swapped, error))
