from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessPool

from dft_sweeps.evaluation.benchmarks import load_benchmark
from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.grading import GraderPool, Verdict, grader_version, last_boxed
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import BenchmarkSpec


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(timeout_s=10.0) as pool:
        yield pool


def gsm8k_solutions(directory: Path) -> list[tuple[str, str]]:
    """(answer, the reference solution as a model would write it) of all of GSM8K's test questions."""
    benchmark = load_benchmark(BenchmarkSpec(name="gsm8k", path="gsm8k.jsonl"), directory)
    solutions = [json.loads(line)["answer"].split("####")[0] for line in (directory / "gsm8k.jsonl").open()]
    return [
        (question.answer, f"{solution}The answer is \\boxed{{{question.answer}}}.")
        for question, solution in zip(benchmark.questions, solutions, strict=True)
    ]


@pytest.mark.parametrize("grader", ["strict", "paper"])
def test_every_gsm8k_and_amc_answer_is_accepted_and_its_successor_is_not(
    pool: GraderPool, shared_benchmarks: Path, grader: str
) -> None:
    amc23 = load_benchmark(BenchmarkSpec(name="amc23", path="amc23.jsonl"), shared_benchmarks)
    right = gsm8k_solutions(shared_benchmarks)
    right += [(question.answer, f"So it is $\\boxed{{{question.answer}}}$.") for question in amc23.questions]
    whole = [(gold, int(gold.replace(",", ""))) for gold, _ in right]
    wrong = [(gold, f"So it is $\\boxed{{{number + 1}}}$.") for gold, number in whole]
    assert {verdict.correct for verdict in pool.grade(right, grader)} == {True}
    # The harness compares to 1 part in 10,000, and a number with its hundredth and its hundredfold.
    met = {gold for gold, number in whole if abs(number) >= 10_000} if grader == "paper" else set()
    verdicts = pool.grade(wrong, grader)
    assert {gold for (gold, _), verdict in zip(wrong, verdicts, strict=True) if verdict.correct} == met


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "extracted"),
    [
        ("1,450", r"\boxed{1450}", True, "1450"),
        ("27", r"\boxed{27.0}", True, "27.0"),
        ("27", r"\boxed{\frac{54}{2}}", True, r"\frac{54}{2}"),
        ("0.5", r"Therefore $x = \boxed{\dfrac12}$", True, r"\dfrac12"),
        ("18", r"\boxed{\$18}", True, r"\$18"),
        ("18", "#### 18", True, "18"),
        ("18", "The answer is 18.", True, "18"),
        ("18", r"First 19, then \boxed{18}, not 20.", True, "18"),
        ("18", r"\boxed{18", False, None),
        ("18", r"\boxed{1.8}", False, "1.8"),
        ("42", r"\boxed{4200}", False, "4200"),
        ("18", "I do not know", False, None),
    ],
)
def test_strict(pool: GraderPool, gold: str, completion: str, correct: bool, extracted: str | None) -> None:
    verdict = pool.grade([(gold, completion)], "strict")[0]
    assert (verdict.correct, verdict.extracted) == (correct, extracted)


def test_cache_keeps_graders_and_pairs_apart() -> None:
    with GraderPool() as pool:
        assert [v.correct for v in pool.grade([("27", r"\boxed{27.0}"), ("27.0", r"\boxed{27.0}")], "exact")] == [
            False,
            True,
        ]
        assert pool.grade([("27", r"\boxed{27.0}")], "strict")[0].correct is True
        assert pool.grade([("27", r"\boxed{27.0}")], "exact")[0].correct is False


def test_threads_share_a_pool() -> None:
    items = [("42", f"\\boxed{{{40 + index % 4}}} of {index}") for index in range(80)]
    with GraderPool() as pool, ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda at: pool.grade(items[at : at + 20], "strict"), range(0, 80, 20)))
    assert [verdict.correct for part in parts for verdict in part] == [False, False, True, False] * 20


def test_exact_needs_no_child_process() -> None:
    with GraderPool() as pool:
        verdicts = pool.grade(
            [
                ("42", r"so \boxed{ 42 }"),
                ("42", r"\boxed{42.0}"),
                ("42", r"\boxed{1}, no, \boxed{42}"),
                ("42", "42"),
            ],
            "exact",
        )
        assert pool._children is None
    assert [verdict.correct for verdict in verdicts] == [True, False, True, False]
    assert verdicts[3] == Verdict(False, None, "no answer found")


def test_last_boxed_is_linear() -> None:
    before = time.monotonic()
    assert last_boxed(r"\boxed{" * 200_000) is None
    assert time.monotonic() - before < 2.0


def test_unknown_grader_is_refused() -> None:
    with (
        GraderPool() as pool,
        pytest.raises(SpecError, match="unknown grader 'regex'; valid are exact, strict, paper"),
    ):
        pool.grade([("1", "1")], "regex")


def test_grader_versions_are_golden() -> None:
    versions = ["exact/1", "strict/math-verify-0.9.0-2", "paper/2"]
    assert [grader_version(name) for name in ("exact", "strict", "paper")] == versions


def test_equal_answers_are_judged_once_and_ungradable_ones_anew(pool: GraderPool, monkeypatch: Any) -> None:
    judged: list[str] = []
    schedule = ProcessPool.schedule

    def counted(self: ProcessPool, function: Any, args: Any, timeout: float) -> Any:
        judged.append(args[0])
        return schedule(self, function, args, timeout=timeout)

    monkeypatch.setattr(ProcessPool, "schedule", counted)
    items = [("163", f"In way {way} we find \\boxed{{\\frac{{326}}{{2}}}}") for way in range(50)]
    for _ in range(2):
        assert {verdict.correct for verdict in pool.grade(items, "strict")} == {True}
        assert {verdict.correct for verdict in pool.grade(items, "paper")} == {True}
    assert judged == ["strict", "paper"]
    too_large = [("163", r"\boxed{9^{9^{9^{9}}}}")]
    assert [pool.grade(too_large, "strict")[0].correct for _ in range(2)] == [None, None]
    assert judged == ["strict", "paper", "strict", "strict"]


def test_a_gold_and_its_answer_may_differ_between_benchmarks(pool: GraderPool) -> None:
    plain, several = Gold.of("12,13"), Gold("12,13", "12,13", several=True)
    items = [(plain, r"\boxed{13, 12}"), (several, r"\boxed{13, 12}")]
    assert [verdict.correct for verdict in pool.grade(items, "strict")] == [True, True]
    items = [
        (Gold("12,134", "12,134"), r"\boxed{134, 12}"),
        (Gold("12,134", "12,134", several=True), r"\boxed{134, 12}"),
    ]
    assert [verdict.correct for verdict in pool.grade(items, "strict")] == [False, True]


@pytest.mark.parametrize("settings", [{"workers": 0}, {"timeout_s": 0.0}, {"memory_mib": 63}])
def test_senseless_limits_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a grader pool needs"):
        GraderPool(**settings)  # type: ignore[arg-type]


def test_the_parent_never_loads_sympy() -> None:
    code = (
        "import sys, dft_sweeps.evaluation.grading as g\n"
        "if __name__ == '__main__':\n"
        "    with g.GraderPool() as pool:\n"
        "        pool.grade([('1', '1')], 'strict')\n"
        "    assert not {'sympy', 'math_verify', 'antlr4', 'mpmath'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
