"""Evaluating checkpoints on leased engines, while training goes on.

One thread per engine takes the checkpoint whose point is earliest in its curve, swaps its weights in, and generates
what the store does not hold yet. Another thread grades what is in the store, so that engines never wait for graders
(but between the rounds of adaptive sampling); the store is what passes completions between them. Equal weights asked
for in the same way are one piece of work, whoever asks for it, in this sweep or in another that runs beside it.
An engine that fails is leased anew and the work tried again, `ATTEMPTS` times in all; each failure is reported.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import Task, evaluation_key
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import EvaluationKey, Judgements
from dft_sweeps.evaluation.store import CorruptEntry, EvaluationStore
from dft_sweeps.orchestration.engines import EnginePool, Engines
from dft_sweeps.orchestration.locks import generation_lock
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.spec.models import SamplingSpec

ATTEMPTS = 3
CLOSE_S = 15.0
"""How long closing waits for all threads; an engine cancels within a decoding step."""


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
    weights_digest: str
    error: str | None = None


@dataclass(frozen=True)
class AttemptFailed:
    """An evaluation failed and is tried again."""

    message: str


Samplings = tuple[tuple[str, SamplingSpec], ...]


@dataclass
class _Work:
    checkpoint: Checkpoint
    samplings: Samplings
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
    """Evaluates checkpoints of one architecture on benchmarks. `landed` collects results for the caller's thread."""

    def __init__(
        self,
        benchmarks: Mapping[str, Benchmark],
        prompts: Prompts,
        store: EvaluationStore,
        pool: EnginePool,
        graders: GraderPool,
    ) -> None:
        self._benchmarks, self._prompts = benchmarks, prompts
        self._store, self._graders = store, graders
        self._engines = Engines(pool, prompts, graders, self._say)
        self._queue: queue.PriorityQueue[_Queued] = queue.PriorityQueue()
        self._generated: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, Samplings], _Work] = {}
        self._preparing = 0
        """Threads that look up what is to be generated, and may want an engine for it."""
        self._closed = threading.Event()
        self.landed: queue.SimpleQueue[Evaluated | AttemptFailed] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"evaluation-{index}", daemon=True)
            for index in range(pool.replicas)
        ]
        self._grader = threading.Thread(target=self._grade_all, name="grading", daemon=True)
        for thread in (*self._threads, self._grader):
            thread.start()

    def submit(self, training_id: str, checkpoint: Checkpoint, samplings: Mapping[str, SamplingSpec]) -> None:
        """Evaluates a checkpoint of a trial on all benchmarks; the result lands later."""
        if checkpoint.step == 0:
            self._engines.base = checkpoint
        key = checkpoint.weights_digest, tuple(samplings.items())
        with self._lock:
            if work := self._pending.get(key):
                work.subscribers.append((training_id, checkpoint.step))
                return
            work = _Work(checkpoint, key[1], [(training_id, checkpoint.step)])
            self._pending[key] = work
        self._put(checkpoint.step, work)

    @property
    def leased(self) -> int:
        """Engines that work for this process now."""
        return self._engines.leased

    @property
    def lacking(self) -> bool:
        """Whether something waits for an engine, and this process has none."""
        return self._engines.lacking

    def close(self) -> None:
        """Ends the threads: what an engine has under way is cancelled, and nothing further is started."""
        self._closed.set()
        self._engines.close()
        for _ in self._threads:
            self._put(-1, None)
        self._generated.put(None)
        deadline = time.monotonic() + CLOSE_S
        for thread in (*self._threads, self._grader):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _put(self, step: int, work: _Work | None) -> None:
        self._queue.put(_Queued(step, next(self._numbers), work))

    def _serve(self) -> None:
        """One engine's thread: leases while there is work, so that nothing holds an engine idle."""
        while (work := self._queue.get().work) is not None and not self._closed.is_set():
            self._attempt([work, *self._beside(work)], self._generate)

    def _beside(self, work: _Work) -> list[_Work]:
        """Work that waits and can be done on the same engine at the same time. What failed before is done alone, lest
        it fail its neighbours again."""
        found: list[_Work] = []
        while not work.attempts and len(found) + 1 < self._engines.places(work.checkpoint):
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                break
            if queued.work is None or queued.work.attempts or self._engines.places(queued.work.checkpoint) == 1:
                self._queue.put(queued)
                break
            found.append(queued.work)
        return found

    def _grade_all(self) -> None:
        """The grading thread, in the order in which completions are generated."""
        while (work := self._generated.get()) is not None and not self._closed.is_set():
            self._attempt([work], self._grade)

    def _attempt(self, works: Sequence[_Work], do: Callable[[Sequence[_Work]], None]) -> None:
        try:
            do(works)
        except CorruptEntry as error:
            for work in works:
                self._land(work, {}, str(error))
        except Exception as error:  # whatever an engine, its process or Ray raises ends this attempt, not the sweep
            reason = " ".join(str(error).split())[-300:] or type(error).__name__
            for work in works:
                self._try_again(work, reason)

    def _try_again(self, work: _Work, reason: str) -> None:
        work.attempts += 1
        if work.attempts < ATTEMPTS:
            self._say(f"step {work.checkpoint.step}: attempt {work.attempts} failed: {reason}")
            self._put(work.checkpoint.step, work)
        else:
            self._land(work, {}, f"evaluation failed {ATTEMPTS} times; the last time: {reason}")

    def _say(self, message: str) -> None:
        self.landed.put(AttemptFailed(message))

    def _generate(self, works: Sequence[_Work]) -> None:
        """Puts into the store what it lacks of completions, and hands the work on to be graded."""
        with ExitStack() as locks:
            for digest in sorted({work.checkpoint.weights_digest for work in works}):
                locks.enter_context(generation_lock(self._store.root, digest, self._closed))
            if self._closed.is_set():
                return
            with self._lock:
                self._preparing += 1
            try:
                missing = [(work, tasks) for work in works if (tasks := self._missing(work))]
            finally:
                with self._lock:
                    self._preparing -= 1
            if missing:
                asked = [work for work, _ in missing]
                # Works of equal weights, or samplings of two names, may want the same.
                distinct = {id_: task for _, tasks in missing for id_, task in tasks.items()}
                checkpoints = [work.checkpoint for work in asked]
                done = self._engines.sample(checkpoints, list(distinct.values()), self._any_waits)
                for work in asked:
                    work.started, work.swap_seconds = done.started, done.swap_seconds
                for completions in done.completions:
                    self._store.save_completions(completions)
        for work in works:
            self._generated.put(work)

    def _any_waits(self) -> bool:
        """Whether some work wants an engine of its own."""
        return self._preparing > 0 or not self._queue.empty()

    def _missing(self, work: _Work) -> dict[str, Task]:
        """What is to be generated, by the id of its evaluation."""
        return {
            key.id: Task(key.weights_digest, benchmark, key.sampling)
            for _, benchmark, key in self._wanted(work)
            if not self._store.knows(key, benchmark)
        }

    def _grade(self, works: Sequence[_Work]) -> None:
        [work] = works
        results: Results = {}
        for name, benchmark, key in self._wanted(work):
            if self._closed.is_set():
                return
            judged = self._store.load_or_regrade(key, benchmark, self._graders)
            if judged is None:
                raise RuntimeError(f"the completions {key.id} of {benchmark.name} have left the store")
            results.setdefault(name, []).append(judged)
        self._land(work, results)

    def _wanted(self, work: _Work) -> Iterator[tuple[str, Benchmark, EvaluationKey]]:
        digest = work.checkpoint.weights_digest
        for name, sampling in work.samplings:
            for benchmark in self._benchmarks.values():
                yield name, benchmark, evaluation_key(digest, benchmark, sampling, self._prompts)

    def _land(self, work: _Work, results: Results, error: str | None = None) -> None:
        with self._lock:
            del self._pending[work.checkpoint.weights_digest, work.samplings]
        seconds = 0.0 if work.started is None or error else time.monotonic() - work.started
        digest = work.checkpoint.weights_digest
        for training_id, step in work.subscribers:
            self.landed.put(Evaluated(training_id, step, results, seconds, work.swap_seconds, digest, error))
