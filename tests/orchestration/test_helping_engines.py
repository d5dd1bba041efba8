"""Engines that become free join checkpoints that are under way, and are not waited for again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration import engines, shards
from dft_sweeps.orchestration.evaluations import Evaluated, Evaluations
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.load import load_sweep
from tests.end_to_end.running import SPEC
from tests.orchestration.paced_engine import PacedEngine
from tests.orchestration.test_evaluations import checkpoint, samplings

LONG = 3
"""The step whose questions take the engine that begins with them 2 s, and another 0.8 s; those of others 0.4 s."""


class Pool:
    """Starts with one engine; a second is there while somebody waits for it, until `shrinks` is set."""

    replicas, fewest, adapters = 2, 1, 0

    def __init__(self) -> None:
        self.shrinks, self.in_vain = threading.Event(), 0
        self.swaps: list[int] = []
        self.engines: list[PacedEngine] = []
        """In the order in which they were lent."""
        self._free = threading.Semaphore(2)

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[PacedEngine]:
        if wait_s is not None and self.shrinks.is_set():
            self.in_vain += 1
            raise TimeoutError
        if not self._free.acquire(timeout=wait_s):
            raise TimeoutError
        try:
            self.engines.append(_Engine(self.swaps))
            yield self.engines[-1]
        finally:
            self._free.release()


class _Engine(PacedEngine):
    def __init__(self, swaps: list[int]) -> None:
        super().__init__()
        self._swaps = swaps

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> None:
        step = int(directory.removeprefix("step-"))
        self._swaps.append(step)
        self._pace = 0.01 if step != LONG else 0.05 if self._swaps.count(LONG) == 1 else 0.02


@pytest.fixture(scope="module")
def prepared() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def side(prepared: PreparedSweep, tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluations]:
    """Has evaluated steps 1 and 2 on two engines at a time."""
    monkeypatch.setattr(shards, "FEWEST_REQUESTS", 4)
    with GraderPool() as graders:
        found = Evaluations(prepared.benchmarks, prepared.prompts, EvaluationStore(tmp_path), pool, graders)
        evaluate(found, prepared, 1, 2)
        assert sorted(pool.swaps) == [1, 2], "there was one engine, as far as was known, and then one for each"
        pool.swaps.clear()
        monkeypatch.setattr(shards, "LOOK_S", 0.05)
        yield found
        found.close()


def evaluate(side: Evaluations, prepared: PreparedSweep, *steps: int) -> None:
    for step in steps:
        side.submit("t-1", checkpoint(step), samplings(prepared))
    for _ in steps:
        landed = side.landed.get(timeout=10)
        assert isinstance(landed, Evaluated) and landed.error is None


def test_an_engine_that_is_known_takes_part_from_the_start(
    side: Evaluations, prepared: PreparedSweep, pool: Pool
) -> None:
    evaluate(side, prepared, LONG)
    assert pool.swaps == [LONG, LONG]


def test_one_that_becomes_free_joins_a_checkpoint_that_is_under_way(
    side: Evaluations, prepared: PreparedSweep, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "most_engines", lambda requests: 1)
    evaluate(side, prepared, LONG, LONG + 1)
    assert sorted(pool.swaps[:2]) == [LONG, LONG + 1] and pool.swaps[2:] == [LONG]


def test_one_that_is_gone_is_waited_for_once(side: Evaluations, prepared: PreparedSweep, pool: Pool) -> None:
    pool.shrinks.set()
    evaluate(side, prepared, LONG)
    assert (pool.swaps, pool.in_vain) == ([LONG], 1)
    evaluate(side, prepared, LONG + 1, LONG + 2)  # each with an engine of its own, of which both are known again
    assert pool.in_vain <= 2


def test_one_that_helps_goes_to_a_checkpoint_that_comes(
    side: Evaluations, prepared: PreparedSweep, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is through with its share before the other engine, and takes over no more of that one's."""
    monkeypatch.setattr(engines, "most_engines", lambda requests: 1)
    pool.engines.clear()
    side.submit("t-1", checkpoint(LONG), samplings(prepared))
    while len(pool.engines) < 2 or not pool.engines[1].answered:
        time.sleep(0.01)
    evaluate(side, prepared, LONG + 1)
    assert [len(engine.calls) for engine in pool.engines[:3]] == [1, 1, 1]
    side.landed.get(timeout=10)
