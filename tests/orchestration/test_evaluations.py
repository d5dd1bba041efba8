"""The evaluation side of a sweep, on engines that answer from a script: order, sharing, retries.

Real engines are in tests/services and tests/end_to_end; here it is about who is evaluated when, and how often.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.store import EvaluationStore
from dft_sweeps.orchestration.engines import ADAPTER_DIRECTORY
from dft_sweeps.orchestration.evaluations import ATTEMPTS, AttemptFailed, Evaluated, Evaluations
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import AdaptiveSpec, SamplingSpec
from tests.end_to_end.running import SPEC
from tests.orchestration.scripted_pool import ScriptedPool

CANARY = Canary(((1, 2),), ((-1.0,),))


@pytest.fixture(scope="module")
def prepared() -> PreparedSweep:
    return prepare(load_sweep(SPEC))


def checkpoint(step: int, digest: str | None = None) -> Checkpoint:
    return Checkpoint(step, f"step-{step}", digest or f"weights of {step}", CANARY)


def samplings(prepared: PreparedSweep) -> dict[str, SamplingSpec]:
    return prepared.samplings_at(prepared.trials[0], 0)


@contextmanager
def evaluations(prepared: PreparedSweep, storage: Path, pool: ScriptedPool) -> Iterator[Evaluations]:
    with GraderPool() as graders:
        side = Evaluations(prepared.benchmarks, prepared.prompts, EvaluationStore(storage), pool, graders)
        yield side
        side.close()


def take(side: Evaluations, count: int) -> list[Evaluated]:
    return [side.landed.get(timeout=20) for _ in range(count)]


def test_the_earliest_missing_point_comes_first(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool()
    with evaluations(prepared, tmp_path, pool) as side:
        for step in (6, 3, 0):
            side.submit("t-1", checkpoint(step), samplings(prepared))
            pool.asked.wait(10)
        pool.gate.set()
        landed = take(side, 3)
    # The first one submitted had asked for the engine when the others came.
    assert [result.step for result in landed] == [6, 0, 3]
    assert set(landed[0].results) == {"sampled", "greedy"}
    assert [len(result["exact"].questions) for result in landed[0].results["sampled"]] == [12, 8]


def test_both_graders_judge_and_what_one_lacks_is_graded_without_an_engine(tmp_path: Path) -> None:
    (tmp_path / "amc.jsonl").write_text('{"question": "q", "answer": 27.0}\n{"question": "r", "answer": 204}')
    text = SPEC.read_text().replace("{name: arithmetic_1, limit: 12}", f"{{name: amc23, path: {tmp_path}/amc.jsonl}}")
    (tmp_path / "sweep.yaml").write_text(text)
    prepared = prepare(load_sweep(tmp_path / "sweep.yaml"))
    pool = ScriptedPool()
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        [first] = take(side, 1)
    assert [list(judged) for judged in first.results["sampled"]] == [["strict", "paper"], ["exact"]]
    old = {result.id for results in first.results.values() for judged in results for result in judged.values()}
    assert {path.name for path in (tmp_path / "grades").iterdir()} == old
    for judged in (results[0] for results in first.results.values()):
        shutil.rmtree(tmp_path / "grades" / judged["paper"].id)
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        [again] = take(side, 1)
    assert again.results == first.results
    assert (len(pool.swaps), again.seconds) == (1, 0.0)
    assert {path.name for path in (tmp_path / "grades").iterdir()} == old


def test_an_engine_generates_while_the_checkpoint_before_is_graded(
    prepared: PreparedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One engine: the second checkpoint's weights are swapped in before the first one's grading may end."""
    pool, grading, swapped_twice = ScriptedPool(), threading.Event(), threading.Event()
    whole_grade = GraderPool.grade

    def slow_grade(self: GraderPool, *arguments: Any) -> Any:
        grading.set()
        assert swapped_twice.wait(10), "the engine waited for the graders"
        return whole_grade(self, *arguments)

    def watched_swap(directory: str, *arguments: Any) -> None:
        ScriptedPool.swap(pool, directory, *arguments)
        if len(pool.swaps) == 2:
            assert grading.wait(10)
            swapped_twice.set()

    monkeypatch.setattr(GraderPool, "grade", slow_grade)
    monkeypatch.setattr(pool, "swap", watched_swap)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(0), samplings(prepared))
        side.submit("t-1", checkpoint(3), samplings(prepared))
        landed = take(side, 2)
    assert [(result.step, result.error) for result in landed] == [(0, None), (3, None)]


def test_a_grader_that_fails_is_tried_again_on_the_same_completions(
    prepared: PreparedSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, whole_grade, failures = ScriptedPool(), GraderPool.grade, ["the fork server died"]

    def grade(self: GraderPool, *arguments: Any) -> Any:
        if failures:
            raise RuntimeError(failures.pop())
        return whole_grade(self, *arguments)

    monkeypatch.setattr(GraderPool, "grade", grade)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        said, landed = take(side, 2)
    assert "the fork server died" in said.message
    assert (landed.error, len(pool.swaps)) == (None, 1)


def test_equal_weights_are_evaluated_once_for_all_who_ask(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(0, "base"), samplings(prepared))
        side.submit("t-2", checkpoint(0, "base"), samplings(prepared))
        pool.gate.set()
        landed = take(side, 2)
        side.submit("t-3", checkpoint(0, "base"), samplings(prepared))
        [stored] = take(side, 1)
    assert {result.training_id for result in landed} == {"t-1", "t-2"}
    assert landed[0].results == landed[1].results == stored.results
    assert (len(pool.swaps), stored.seconds) == (1, 0.0)


def test_two_sweeps_that_run_at_once_generate_equal_evaluations_once(prepared: PreparedSweep, tmp_path: Path) -> None:
    first, second = ScriptedPool(), ScriptedPool()
    with evaluations(prepared, tmp_path, first) as one, evaluations(prepared, tmp_path, second) as other:
        one.submit("t-1", checkpoint(0, "base"), samplings(prepared))
        assert first.asked.wait(10)
        other.submit("t-2", checkpoint(0, "base"), samplings(prepared))
        assert not second.asked.wait(1.5)
        first.gate.set()
        second.gate.set()
        [mine], [theirs] = take(one, 1), take(other, 1)
    assert mine.results == theirs.results
    assert (len(first.swaps), len(second.swaps)) == (1, 0)


def test_the_same_weights_asked_for_in_two_ways_are_two_evaluations(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool()
    pool.gate.set()
    fewer = {"sampled": samplings(prepared)["sampled"].model_copy(update={"samples": 2})}
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        side.submit("t-1", checkpoint(3), fewer)
        both = take(side, 2)
    assert sorted(result.results["sampled"][0]["exact"].samples for result in both) == [2, 3]


def test_adaptive_sampling_draws_no_more_than_it_needs_and_is_read_back(
    prepared: PreparedSweep, tmp_path: Path
) -> None:
    pool = ScriptedPool()
    pool.gate.set()
    asked = {"sampled": SamplingSpec(samples=16, max_new_tokens=96, adaptive=AdaptiveSpec(half_width=20.0))}
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), asked)
        [first] = take(side, 1)
    reached = [judged["exact"].samples for judged in first.results["sampled"]]
    assert all(1 <= samples < 16 for samples in reached)
    assert all(100 * judged["exact"].fixed_interval.half_width <= 20 for judged in first.results["sampled"])
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), asked)
        [again] = take(side, 1)
    assert again.results == first.results
    assert len(pool.swaps) == 1


def lora_checkpoint(directory: Path, step: int) -> Checkpoint:
    (directory / f"step-{step}" / ADAPTER_DIRECTORY).mkdir(parents=True)
    return Checkpoint(step, str(directory / f"step-{step}"), f"weights of {step}", CANARY)


@pytest.mark.parametrize("places", [0, 2, 4])
def test_lora_checkpoints_that_wait_are_adapters_side_by_side(
    prepared: PreparedSweep, tmp_path: Path, places: int
) -> None:
    pool = ScriptedPool(adapters=places)
    waiting = [lora_checkpoint(tmp_path, step) for step in (3, 4, 5)]
    with evaluations(prepared, tmp_path / "storage", pool) as side:
        side.submit("t-1", checkpoint(0), samplings(prepared))
        assert pool.asked.wait(10)
        for each in waiting:
            side.submit("t-1", each, samplings(prepared))
        pool.gate.set()
        landed = take(side, 4)
    assert [(result.step, result.error) for result in landed] == [(0, None), (3, None), (4, None), (5, None)]
    names = {each.step: each.weights_digest for each in (checkpoint(0), *waiting)}
    together = {
        0: [{names[3]}, {names[4]}, {names[5]}],
        2: [{names[3], names[4]}, {names[5]}],
        4: [{names[3], names[4], names[5]}],
    }
    assert pool.groups == [{names[0]}, *together[places]]
    whole, adapted = (["step-0", *(each.directory for each in waiting)], []) if not places else (
        ["step-0"] * len(pool.groups), [f"{each.directory}/{ADAPTER_DIRECTORY}" for each in waiting])  # fmt: skip
    assert (pool.swaps, pool.adapted) == (whole, adapted)


def test_idle_engines_share_a_checkpoint_s_questions(prepared: PreparedSweep, tmp_path: Path) -> None:
    one, three, many = ScriptedPool(), ScriptedPool(replicas=3), ScriptedPool(replicas=8)
    results = []
    for pool in (one, three, many):
        pool.gate.set()
        with evaluations(prepared, tmp_path / str(pool.replicas), pool) as side:
            side.submit("t-1", checkpoint(3), samplings(prepared))
            results += take(side, 1)
    assert results[0].results == results[1].results == results[2].results
    # 40 requests, 16 for an engine at least: more engines would be kept from others for nothing.
    assert (one.swaps, three.swaps, many.swaps) == (["step-3"], ["step-3"] * 3, ["step-3"] * 3)
    assert len(one.groups) == 1


def test_a_failing_engine_is_tried_again_and_each_failure_is_said(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool(failures=ATTEMPTS - 1)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        *said, landed = take(side, ATTEMPTS)
    assert landed.error is None
    assert [type(event) for event in said] == [AttemptFailed] * (ATTEMPTS - 1)
    assert "the engine's process died" in said[0].message


def test_an_evaluation_that_cannot_succeed_ends_as_an_error(prepared: PreparedSweep, tmp_path: Path) -> None:
    pool = ScriptedPool(failures=100)
    pool.gate.set()
    with evaluations(prepared, tmp_path, pool) as side:
        side.submit("t-1", checkpoint(3), samplings(prepared))
        *_, landed = take(side, ATTEMPTS)
    assert landed.results == {}
    assert f"{ATTEMPTS} times" in landed.error
    assert len(pool.swaps) == ATTEMPTS
