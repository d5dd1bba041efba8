"""Leased engines with checkpoints' weights on them: whole ones swapped in, LoRA checkpoints side by side as adapters of
the base model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.evaluation.evaluate import Answers, Groups, Task, generate_tasks
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import Completions
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.shards import LeasedEngine, Shards, most_engines

SPARE_S = 1.0
"""How long an engine is waited for beside the one that is leased: one that nobody uses comes in much less."""
ADAPTER_DIRECTORY = "adapter"
"""In the directory of a LoRA checkpoint, whose weights are merged: the same as an adapter of the base model."""


class EnginePool(Protocol):
    """Engines to lease (`services.pool.Pool`)."""

    @property
    def replicas(self) -> int:
        """The most engines there can be."""

    @property
    def fewest(self) -> int:
        """Engines that are up whether or not they are leased."""

    @property
    def adapters(self) -> int:
        """LoRA adapters that an engine holds side by side; 0 where adapted weights are swapped in merged."""

    def lease(self, wait_s: float | None = None) -> AbstractContextManager[LeasedEngine]:
        """Raises TimeoutError where no engine is free within `wait_s`."""


@dataclass(frozen=True)
class Sampled:
    completions: list[Completions]
    """One for each task."""
    started: float
    """When the engines were leased, on the monotonic clock."""
    swap_seconds: float


class Engines:
    """Samples checkpoints on a pool's engines. `say` is told of failures that were made good."""

    def __init__(self, pool: EnginePool, prompts: Prompts, graders: GraderPool, say: Callable[[str], None]) -> None:
        self._pool, self._prompts, self._graders, self._say = pool, prompts, graders, say
        self._lock = threading.Lock()
        self._leased: set[LeasedEngine] = set()
        self._waiting = self._wanting = 0
        """Threads that wait for an engine, and of these the ones that need it: others would take one that is free."""
        self._known = pool.fewest
        """Engines that are up, as far as is known; so many were leased at once since one was waited for in vain."""
        self._closed = False
        self.base: Checkpoint | None = None
        """The model that adapters are put on, once it is known."""

    def places(self, checkpoint: Checkpoint) -> int:
        """How many checkpoints like this one an engine holds at a time."""
        return self._pool.adapters if self._adapter(checkpoint) else 1

    def sample(self, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], wanted: Callable[[], bool]) -> Sampled:
        """Samples tasks from the weights of these checkpoints: one, or several adapters.

        Engines that nobody uses take part, from the start or, once they become free, from then on.

        Args:
            wanted: whether other checkpoints wait for an engine; then no further one takes part.
        """

        def in_demand() -> bool:
            return self._wanting > 0 or wanted()

        with self._lock:
            self._known = max(self._known, self._pool.fewest)
        most = most_engines(sum(len(task.benchmark.questions) for task in tasks))
        with self._engines(most, in_demand) as engines:
            started = time.monotonic()
            with ThreadPoolExecutor(len(engines)) as threads:
                list(threads.map(partial(self._put_on, checkpoints), engines))
            swap_seconds = time.monotonic() - started

            def ask(groups: Groups) -> Answers:
                shards = Shards(groups, self._say)
                return shards.asked_of(engines, partial(self._find_help, shards, checkpoints, in_demand))

            return Sampled(generate_tasks(ask, tasks, self._prompts, self._graders), started, swap_seconds)

    @property
    def leased(self) -> int:
        """Engines that are leased now."""
        with self._lock:
            return len(self._leased)

    @property
    def lacking(self) -> bool:
        """Whether an engine is waited for, and none is leased."""
        with self._lock:
            return bool(self._waiting and not self._leased)

    def close(self) -> None:
        """Cancels what is under way. An engine that comes later is given back at once."""
        with self._lock:
            self._closed = True
            for engine in self._leased:
                engine.release()

    def _put_on(self, checkpoints: Sequence[Checkpoint], engine: LeasedEngine) -> None:
        adapters = [(checkpoint, self._adapter(checkpoint)) for checkpoint in checkpoints]
        if not all(directory for _, directory in adapters) or self.base is None:
            [checkpoint] = checkpoints
            engine.swap(checkpoint.directory, checkpoint.weights_digest, checkpoint.canary)
            return
        engine.swap(self.base.directory, self.base.weights_digest, self.base.canary)
        for checkpoint, directory in adapters:
            engine.adapt(str(directory), checkpoint.weights_digest, checkpoint.canary)

    def _adapter(self, checkpoint: Checkpoint) -> Path | None:
        """Where the checkpoint lies as an adapter, if engines can take it so."""
        directory = Path(checkpoint.directory) / ADAPTER_DIRECTORY
        return directory if self._pool.adapters and self.base is not None and directory.is_dir() else None

    @contextmanager
    def _engines(self, most: int, wanted: Callable[[], bool]) -> Iterator[list[LeasedEngine]]:
        """An engine, and more if they come at once: whoever holds one must not wait for another, or two, of this sweep
        or of several on one pool, might wait for each other's."""
        with ExitStack() as leases:
            engines = [leases.enter_context(self._lease())]
            with suppress(TimeoutError):
                while len(engines) < most and self._spare(wanted):
                    engines.append(leases.enter_context(self._lease(SPARE_S)))
            yield engines

    def _find_help(self, shards: Shards, checkpoints: Sequence[Checkpoint], wanted: Callable[[], bool]) -> None:
        if self._spare(wanted):
            shards.find_help(partial(self._helping, checkpoints), wanted)

    @contextmanager
    def _helping(self, checkpoints: Sequence[Checkpoint]) -> Iterator[LeasedEngine]:
        with self._lease(SPARE_S) as engine:
            self._put_on(checkpoints, engine)
            yield engine

    def _spare(self, wanted: Callable[[], bool]) -> bool:
        """Whether an engine is up, as far as is known, that nobody uses or waits for."""
        with self._lock:
            return self._known > len(self._leased) + self._waiting and not wanted()

    @contextmanager
    def _lease(self, wait_s: float | None = None) -> Iterator[LeasedEngine]:
        with ExitStack() as lease:
            with self._wait(needs=wait_s is None):
                engine = self._leased_within(lease, wait_s)
            with self._lock:
                if self._closed:
                    raise RuntimeError("an engine came after the end")
                self._leased.add(engine)
                self._known = max(self._known, len(self._leased))
            try:
                yield engine
            finally:
                with self._lock:
                    self._leased.discard(engine)

    def _leased_within(self, lease: ExitStack, wait_s: float | None) -> LeasedEngine:
        try:
            return lease.enter_context(self._pool.lease(wait_s))
        except TimeoutError:  # ended, or lent to others: asking again and again would make the pool start further ones
            with self._lock:
                self._known = len(self._leased)
            raise

    @contextmanager
    def _wait(self, needs: bool) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
            self._wanting += needs
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._wanting -= needs
