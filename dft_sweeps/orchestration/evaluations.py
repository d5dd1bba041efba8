"""Evaluating checkpoints on leased engines, while training goes on.

One thread per engine takes the checkpoint whose point is earliest in its curve, swaps its weights in, and generates
what the store does not hold yet. Another thread grades what is in the store, so that engines never wait for graders;
the store is what passes completions between them. Equal weights are one piece of work, whoever asks for it.
An engine that fails is leased anew and the work tried again, `ATTEMPTS` times in all; each failure is reported.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import evaluation_key, generate_all
from dft_sweeps.evaluation.generator import Canary, Generator
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import EvaluationKey, Judgements
from dft_sweeps.evaluation.store import CorruptEntry, EvaluationStore
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import PreparedSweep

ATTEMPTS = 3
CLOSE_S = 15.0
"""How long closing waits for a thread; an engine cancels within a decoding step."""


class LeasedEngine(Generator, Protocol):
    def swap(self, directory: str, weights_digest: str, canary: Canary) -> object: ...

    def release(self) -> None: ...


class EnginePool(Protocol):
    """What the coordinator is handed: engines to lease, one at a time per caller."""

    @property
    def replicas(self) -> int: ...

    def lease(self) -> AbstractContextManager[LeasedEngine]: ...


Results = dict[str, list[Judgements]]
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


@dataclass(frozen=True)
class AttemptFailed:
    """An evaluation failed and is tried again."""

    message: str


@dataclass
class _Work:
    checkpoint: Checkpoint
    subscribers: list[tuple[str, int]]
    attempts: int = 0
    started: float | None = None
    """When an engine was first leased for it, on the monotonic clock; None while nothing had to be generated."""
    swap_seconds: float = 0.0


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
    ) -> None:
        self._prepared, self._store, self._pool, self._graders = prepared, store, pool, graders
        self._queue: queue.PriorityQueue[_Queued] = queue.PriorityQueue()
        self._generated: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[str, _Work] = {}
        self._leased: set[LeasedEngine] = set()
        self._closed = threading.Event()
        self.landed: queue.SimpleQueue[Evaluated | AttemptFailed] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"evaluation-{index}", daemon=True)
            for index in range(pool.replicas)
        ]
        self._grader = threading.Thread(target=self._grade_all, name="grading", daemon=True)
        for thread in (*self._threads, self._grader):
            thread.start()

    def submit(self, training_id: str, checkpoint: Checkpoint) -> None:
        """Evaluates a checkpoint of a trial; the result lands later."""
        with self._lock:
            if work := self._pending.get(checkpoint.weights_digest):
                work.subscribers.append((training_id, checkpoint.step))
                return
            work = _Work(checkpoint, [(training_id, checkpoint.step)])
            self._pending[checkpoint.weights_digest] = work
        self._put(checkpoint.step, work)

    def close(self) -> None:
        """Ends the threads: what an engine has under way is cancelled, and nothing further is started."""
        self._closed.set()
        with self._lock:
            for engine in self._leased:
                engine.release()
        for _ in self._threads:
            self._put(-1, None)
        self._generated.put(None)
        for thread in (*self._threads, self._grader):
            thread.join(CLOSE_S)

    def _put(self, step: int, work: _Work | None) -> None:
        self._queue.put(_Queued(step, next(self._numbers), work))

    def _serve(self) -> None:
        """One engine's thread: leases while there is work, so that nothing holds an engine idle."""
        while (work := self._queue.get().work) is not None and not self._closed.is_set():
            self._attempt(work, self._generate)

    def _grade_all(self) -> None:
        """The grading thread, in the order in which completions are generated."""
        while (work := self._generated.get()) is not None and not self._closed.is_set():
            self._attempt(work, self._grade)

    def _attempt(self, work: _Work, do: Callable[[_Work], None]) -> None:
        try:
            do(work)
        except CorruptEntry as error:
            self._land(work, {}, str(error))
        except Exception as error:  # whatever an engine, its process or Ray raises ends this attempt, not the sweep
            reason = " ".join(str(error).split())[-300:] or type(error).__name__
            work.attempts += 1
            if work.attempts < ATTEMPTS:
                step = work.checkpoint.step
                self.landed.put(AttemptFailed(f"step {step}: attempt {work.attempts} failed: {reason}"))
                self._put(step, work)
            else:
                self._land(work, {}, f"evaluation failed {ATTEMPTS} times; the last time: {reason}")

    def _generate(self, work: _Work) -> None:
        """Puts into the store what it lacks of completions, and hands the work on to be graded."""
        missing = [
            (benchmark, key.sampling)
            for _, benchmark, key in self._wanted(work)
            if not self._store.knows(key, benchmark)
        ]
        if missing:
            with self._lease() as engine:
                work.started = time.monotonic()
                checkpoint = work.checkpoint
                engine.swap(checkpoint.directory, checkpoint.weights_digest, checkpoint.canary)
                work.swap_seconds = time.monotonic() - work.started
                generated = generate_all(engine, missing, self._prepared.tokenizer)
            for completions in generated:
                self._store.save_completions(completions)
        self._generated.put(work)

    def _grade(self, work: _Work) -> None:
        results: Results = {}
        for name, benchmark, key in self._wanted(work):
            if self._closed.is_set():
                return
            judged = self._store.load_or_regrade(key, benchmark, self._graders)
            if judged is None:
                raise RuntimeError(f"the completions {key.id} of {benchmark.name} have left the store")
            results.setdefault(name, []).append(judged)
        self._land(work, results)

    @contextmanager
    def _lease(self) -> Iterator[LeasedEngine]:
        with self._pool.lease() as engine:
            with self._lock:
                self._leased.add(engine)
            try:
                yield engine
            finally:
                with self._lock:
                    self._leased.discard(engine)

    def _wanted(self, work: _Work) -> Iterator[tuple[str, Benchmark, EvaluationKey]]:
        for name, sampling in self._prepared.evaluation.samplings.items():
            for benchmark in self._prepared.benchmarks.values():
                digest = work.checkpoint.weights_digest
                yield name, benchmark, evaluation_key(digest, benchmark, self._prepared.template_digest, sampling)

    def _land(self, work: _Work, results: Results, error: str | None = None) -> None:
        with self._lock:
            del self._pending[work.checkpoint.weights_digest]
        seconds = 0.0 if work.started is None or error else time.monotonic() - work.started
        for training_id, step in work.subscribers:
            self.landed.put(Evaluated(training_id, step, results, seconds, work.swap_seconds, error))
