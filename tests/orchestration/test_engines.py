"""Engines between sweeps that share a pool, and at a sweep's end: nobody waits for what never comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration import evaluations
from dft_sweeps.orchestration.evaluations import Evaluations
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.load import load_sweep
from tests.end_to_end.running import SPEC
from tests.orchestration.scripted_pool import ScriptedPool
from tests.orchestration.test_evaluations import checkpoint, samplings


@pytest.fixture(scope="module")
def prepared() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


@pytest.fixture
def graders() -> Iterator[GraderPool]:
    with GraderPool() as pool:
        yield pool


def evaluating(prepared: PreparedSweep, storage: Path, pool: ScriptedPool, graders: GraderPool) -> Evaluations:
    return Evaluations(prepared.benchmarks, prepared.prompts, EvaluationStore(storage), pool, graders)


class SharedPool(ScriptedPool):
    """Two engines for two sweeps. The first leases of both are given at the same moment."""

    def __init__(self) -> None:
        super().__init__(replicas=2)
        self._free, self._both = threading.Semaphore(2), threading.Barrier(2)
        self._given = 0

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[ScriptedPool]:
        if not self._free.acquire(timeout=wait_s):
            raise TimeoutError
        try:
            self._given += 1
            if self._given <= 2:
                self._both.wait(10)
            yield ScriptedPool()
        finally:
            self._free.release()


def test_sweeps_that_share_a_pool_do_not_wait_for_each_other_s_engines(
    prepared: PreparedSweep, tmp_path: Path, graders: GraderPool
) -> None:
    """Each has an engine, and an idle thread for which it would take the other's."""
    pool = SharedPool()
    sweeps = [evaluating(prepared, tmp_path / name, pool, graders) for name in "ab"]
    with ExitStack() as closing:
        for side in sweeps:
            closing.callback(side.close)
        time.sleep(0.2)  # until all threads wait for work
        for side in sweeps:
            side.submit("t-1", checkpoint(3), samplings(prepared))
        landed = [side.landed.get(timeout=10) for side in sweeps]
    assert [result.error for result in landed] == [None, None]


class AskedPool(ScriptedPool):
    """Knows how many leases were asked for."""

    def __init__(self, replicas: int = 1) -> None:
        super().__init__(replicas=replicas)
        self.all_asked = threading.Barrier(replicas + 1)

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[ScriptedPool]:
        self.all_asked.wait(10)
        self.gate.wait()
        yield self


def test_an_engine_that_comes_after_the_end_is_given_back_unused(
    prepared: PreparedSweep, tmp_path: Path, graders: GraderPool
) -> None:
    pool = AskedPool()
    side = evaluating(prepared, tmp_path, pool, graders)
    side.submit("t-1", checkpoint(3), samplings(prepared))
    pool.all_asked.wait(10)
    threading.Timer(0.5, pool.gate.set).start()
    side.close()
    assert pool.swaps == []


def test_closing_waits_once_for_all_threads(
    prepared: PreparedSweep, tmp_path: Path, graders: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluations, "CLOSE_S", 1.0)
    pool = AskedPool(replicas=4)
    side = evaluating(prepared, tmp_path, pool, graders)
    for step in range(4):
        side.submit("t-1", checkpoint(step), samplings(prepared))
    pool.all_asked.wait(10)
    started = time.monotonic()
    side.close()
    taken = time.monotonic() - started
    pool.gate.set()
    assert taken < 2.5
