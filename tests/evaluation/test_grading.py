from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dft_sweeps.evaluation.benchmarks import load_benchmark
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


def test_every_gsm8k_and_amc_answer_is_accepted_and_its_successor_is_not(
    pool: GraderPool, shared_benchmarks: Path
) -> None:
    amc23 = load_benchmark(BenchmarkSpec(name="amc23", path="amc23.jsonl"), shared_benchmarks)
    right = gsm8k_solutions(shared_benchmarks)
    right += [(question.answer, f"So it is $\\boxed{{{question.answer}}}$.") for question in amc23.questions]
    wrong = [(gold, f"So it is $\\boxed{{{int(gold.replace(',', '')) + 1}}}$.") for gold, _ in right]
    assert {verdict.correct for verdict in pool.grade(right, "math_verify")} == {True}
    assert {verdict.correct for verdict in pool.grade(wrong, "math_verify")} == {False}


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "extracted"),
    [
        ("1,450", r"\boxed{1450}", True, "1450"),
        ("27", r"\boxed{27.0}", True, "27.0"),
        ("27", r"\boxed{\frac{54}{2}}", True, r"\frac{54}{2}"),
        ("0.5", r"Therefore $x = \boxed{\dfrac12}$", True, r"\frac{1}{2}"),
        ("18", r"\boxed{\$18}", True, "18"),
        ("18", "#### 18", True, "18"),
        ("18", "The answer is 18.", True, "18"),
        ("18", r"First 19, then \boxed{18}, not 20.", True, "18"),
        ("18", r"\boxed{18", False, None),
        ("18", r"\boxed{1.8}", False, "1.8"),
        ("42", r"\boxed{4200}", False, "4200"),
        ("18", "I do not know", False, None),
    ],
)
def test_math_verify(pool: GraderPool, gold: str, completion: str, correct: bool, extracted: str | None) -> None:
    verdict = pool.grade([(gold, completion)], "math_verify")[0]
    assert (verdict.correct, verdict.extracted) == (correct, extracted)


def test_an_unparsable_reference_answer_is_never_a_silent_zero(pool: GraderPool) -> None:
    verdict = pool.grade([(r"\frac{", r"\boxed{1}")], "math_verify")[0]
    assert verdict.correct is None
    assert "does not parse" in verdict.reason


def test_cache_keeps_graders_and_pairs_apart() -> None:
    with GraderPool() as pool:
        assert [v.correct for v in pool.grade([("27", r"\boxed{27.0}"), ("27.0", r"\boxed{27.0}")], "exact")] == [
            False,
            True,
        ]
        assert pool.grade([("27", r"\boxed{27.0}")], "math_verify")[0].correct is True
        assert pool.grade([("27", r"\boxed{27.0}")], "exact")[0].correct is False


def test_threads_share_a_pool() -> None:
    items = [("42", f"\\boxed{{{40 + index % 4}}} of {index}") for index in range(80)]
    with GraderPool() as pool, ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda at: pool.grade(items[at : at + 20], "math_verify"), range(0, 80, 20)))
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


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"} \boxed{4} {", "4"),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_last_boxed_is_linear() -> None:
    before = time.monotonic()
    assert last_boxed(r"\boxed{" * 200_000) is None
    assert time.monotonic() - before < 2.0


def test_unknown_grader_is_refused() -> None:
    with (
        GraderPool() as pool,
        pytest.raises(SpecError, match="unknown grader 'regex'; valid are exact, math_verify"),
    ):
        pool.grade([("1", "1")], "regex")


def test_grader_versions_are_golden() -> None:
    assert [grader_version(name) for name in ("exact", "math_verify")] == ["exact/1", "math_verify/0.9.0-1"]
