"""The evaluation side of a sweep, on engines that answer from a script: order, sharing, retries.

Real engines are in tests/services and tests/end_to_end; here it is about who is evaluated when, and how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration.evaluations import ATTEMPTS, AttemptFailed, Evaluated, Evaluations
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.load import load_sweep
from tests.end_to_end.running import SPEC
from tests.orchestration.scripted_pool import ScriptedPool

CANARY = Canary(((1, 2),), ((-1.0,),))


@pytest.fixture(scope="module")
def prepared() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


def checkpoint(step: int, digest: str | None = None) -> Checkpoint:
    return Checkpoint(step, f"step-{step}", digest or f"weights of {step}", CANARY)


@contextmanager
def evaluations(prepared: PreparedSweep, storage: Path, pool: ScriptedPool) -> Iterator[Evaluations]:
    with GraderPool() as graders:
        side = Evaluations(prepared, EvaluationStore(storage), pool, graders)
        yield side
        side.close()


def take(side: Evaluations, count: int) -> list[Evaluated]:
    return [side.landed.get(timeout=20) for _ in range(count)]


def test_the_earliest_missing_point_comes_first(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool()
    with evaluations(prepared, tmp_path, pool) as side:
        for step in (6, 3, 0):
            side.submit("t-1", checkpoint(step))
            pool.asked.wait(10)
        pool.gate.set()
        landed = take(side, 3)
    # The first one submitted had asked for the engine when the others came.
    assert [result.step for result in landed] == [6, 0, 3]
    assert set(landed[0].results) == {"sampled", "greedy"}
    assert [len(result.questions) for result in landed[0].results["sampled"]] == [12, 8]


def test_equal_weights_are_evaluated_once_for_all_who_ask(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(0, "base"))
        side.submit("t-2", checkpoint(0, "base"))
        pool.gate.set()
        landed = take(side, 2)
        side.submit("t-3", checkpoint(0, "base"))
        [stored] = take(side, 1)
    assert {result.training_id for result in landed} == {"t-1", "t-2"}
    assert landed[0].results == landed[1].results == stored.results
    assert (len(pool.swaps), stored.seconds) == (1, 0.0)


def test_a_failing_engine_is_tried_again_and_each_failure_is_said(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool(failures=ATTEMPTS - 1)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3))
        *said, landed = take(side, ATTEMPTS)
    assert landed.error is None
    assert [type(event) for event in said] == [AttemptFailed] * (ATTEMPTS - 1)
    assert "the engine's process died" in said[0].message


def test_an_evaluation_that_cannot_succeed_ends_as_an_error(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool(failures=100)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3))
        *_, landed = take(side, ATTEMPTS)
    assert landed.results == {}
    assert f"{ATTEMPTS} times" in landed.error
    assert len(pool.swaps) == ATTEMPTS
