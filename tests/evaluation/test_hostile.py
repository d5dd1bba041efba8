"""Hostile completions against real child processes, with a limit short enough for a test."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dft_sweeps.evaluation.graders import paper, strict
from dft_sweeps.evaluation.graders.limits import Deadline, Watch, limit_process
from dft_sweeps.evaluation.grading import GraderPool, Verdict
from tests.evaluation.hostile import ANSWERS, CODE, DECIDED, HARMLESS, UNCLOSED, in_box

TIMEOUT_S = 0.3
SLACK_S = 2.0
"""For starting a new child, on a machine that has other work too."""
GRADERS = ("strict", "paper")


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=2, timeout_s=TIMEOUT_S) as pool:
        pool.grade([("42", in_box("41 + 1"))], "strict")
        yield pool


@pytest.fixture(scope="module", params=GRADERS)
def judged(pool: GraderPool, request: pytest.FixtureRequest) -> tuple[str, dict[str, Verdict], float]:
    """A grader, its verdicts on all hostile answers, and the seconds they took together, two at a time."""
    before = time.monotonic()
    verdicts = pool.grade([("42", in_box(answer)) for answer in ANSWERS.values()], request.param)
    return request.param, dict(zip(ANSWERS, verdicts, strict=True)), time.monotonic() - before


def test_there_are_enough_of_them() -> None:
    assert len(ANSWERS) >= 60
    assert set().union(*DECIDED.values()) | UNCLOSED <= set(ANSWERS)


def test_hostile_answers_cost_at_most_the_limit(judged: tuple[str, dict[str, Verdict], float]) -> None:
    assert judged[2] < len(ANSWERS) * (TIMEOUT_S + SLACK_S) / 2


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_ungradable(judged: tuple[str, dict[str, Verdict], float], name: str) -> None:
    grader, verdict = judged[0], judged[1][name]
    if grader == "strict" and name in UNCLOSED:
        assert (verdict.correct, verdict.reason) == (False, "no answer found")
    elif verdict.correct is False:  # dangerous by its looks only: its value is found within the limit
        assert name in DECIDED[grader]
        assert verdict.reason.startswith("not equal")
    else:
        assert verdict.correct is None
        assert any(why in verdict.reason for why in ("CPU time", "too large", "too deeply", "memory", "characters"))


def test_neighbours_of_hostile_answers_keep_their_verdicts(pool: GraderPool) -> None:
    names = list(ANSWERS)[::6]
    for grader in GRADERS:
        items = []
        for number, name in enumerate(names):
            items += [
                ("42", in_box(ANSWERS[name])),
                ("42", in_box(rf"\frac{{{42 * (number + 2)}}}{{{number + 2}}}")),
                ("42", in_box(f"41 + \\frac{{1}}{{{number + 2}}}")),
            ]
        verdicts = pool.grade(items, grader)
        assert True not in {verdict.correct for verdict in verdicts[::3]}
        assert [verdict.correct for verdict in verdicts[1::3]] == [True] * len(names)
        assert [verdict.correct for verdict in verdicts[2::3]] == [False] * len(names)


@pytest.mark.parametrize("grader", [*GRADERS, "exact"])
def test_strange_completions_are_wrong_at_once(grader: str) -> None:
    items = [("42", completion) for completion in HARMLESS.values()]
    with GraderPool(timeout_s=30.0) as pool:
        pool.grade([("42", "")], grader)
        before = time.monotonic()
        assert [verdict.correct for verdict in pool.grade(items, grader)] == [False] * len(items)
        assert time.monotonic() - before < 20.0


@pytest.mark.parametrize("grader", [*GRADERS, "exact"])
def test_code_in_a_completion_is_never_executed(grader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [("42", code.replace("PATH", where)) for code in CODE for where in (str(tmp_path / "made"), "made")]
    with GraderPool(timeout_s=30.0) as pool:
        assert [text for (_, text), v in zip(items, pool.grade(items, grader), strict=True) if v.correct is True] == []
    assert list(tmp_path.iterdir()) == []


def test_exhausted_memory_is_ungradable_although_sympy_swallows_it() -> None:
    with GraderPool(timeout_s=60.0, memory_mib=64) as pool:
        verdict = pool.grade([("42", in_box(ANSWERS["power tower"]))], "paper")[0]
    assert (verdict.correct, verdict.reason) == (None, "out of memory")


def _wait() -> None:
    limit_process(memory_mib=1024)
    with Deadline(cpu_s=0.2, wall_s=60.0):
        time.sleep(0.6)  # killed here, were the limit one of wall-clock time


def test_a_waiting_child_uses_no_cpu_time_and_stays() -> None:
    child = multiprocessing.get_context("spawn").Process(target=_wait)
    child.start()
    child.join(timeout=120)
    assert child.exitcode == 0


def _grind(wall_s: float) -> None:
    limit_process(memory_mib=1024)
    with Deadline(cpu_s=0.2, wall_s=wall_s):
        paper.equal(ANSWERS["power tower"], "42") if wall_s > 1 else time.sleep(60)


@pytest.mark.parametrize(("wall_s", "signal_number"), [(60.0, signal.SIGPROF), (0.2, signal.SIGALRM)])
def test_a_child_ends_without_its_parent(wall_s: float, signal_number: int) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_grind, args=(wall_s,))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -signal_number


def _swallow(error: type[Exception] | None) -> None:
    try:
        if error is RecursionError:
            _swallow.__wrapped__ = lambda: _swallow.__wrapped__()
            _swallow.__wrapped__()
        elif error is not None:
            raise error
    except Exception:
        pass


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [(RecursionError, "nested too deeply"), (MemoryError, "out of memory"), (ValueError, None), (None, None)],
)
def test_swallowed_exhaustion_is_noticed(error: type[Exception] | None, exhausted: str | None) -> None:
    with Watch() as watch:
        _swallow(error)
    assert watch.exhausted == exhausted


def test_exhaustion_that_math_verify_swallows_is_ungradable(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: object, **__: object) -> bool:
        _swallow(MemoryError)
        return False

    monkeypatch.setattr(strict, "verify", verify)
    assert strict.grade("42", False, 0.0, r"x \ge 3") == (None, r"x \ge 3", "out of memory")
