"""Hostile completions against math-verify in real child processes, with a limit short enough for a test."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from dft_sweeps.evaluation.grading import GraderPool, Verdict
from dft_sweeps.evaluation.math_verify_child import grade, limit_process

TIMEOUT_S = 0.8

HOSTILE = {
    "power tower": r"\boxed{2^{2^{2^{2^{2^{2}}}}}}",
    "tower without a box": "The answer is 9**9**9**9",
    "power of a power": r"\boxed{10^{10^{10}}}",
    "factorial": r"\boxed{1000000000!}",
    "nested factorials": r"\boxed{((10!)!)!}",
    "binomial": r"\boxed{\binom{1000000000}{500000000}}",
    "sum": r"\boxed{\sum_{k=1}^{1000000000} k^k}",
    "expansion": r"\boxed{(x+y+z+1)^{500}-(x+y+z)^{500}}",
    "integral": r"\boxed{\int_0^{\infty} \frac{\sin(x^x)}{x^{x}}dx}",
    "nested brackets": r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    "nested fractions": r"\boxed{" + r"\frac{1}{" * 2000 + "2" + "}" * 2000 + "}",
    "nested indices": r"\boxed{" + "x_{" * 500 + "1" + "}" * 500 + "}",
    "set of thousands": r"\boxed{\{" + ",".join(map(str, range(20_000))) + r"\}}",
    "long sum": r"\boxed{" + "+".join(["1"] * 20_000) + "}",
    "100k digits": r"\boxed{" + "7" * 100_000 + "}",
    "100k letters": r"\boxed{\text{" + "a" * 100_000 + "}}",
}
HARMLESS = {
    "thousands of boxes": r"\boxed{1}" * 5000,
    "thousands of unclosed boxes": r"\boxed{" * 20_000,
    "braces": "{" * 50_000,
    "dollars": "$" * 50_000,
    "not UTF-8": "\x00\ud800\\boxed{\udfff}",
    "nothing": "",
}


CODE = (
    r"\boxed{open('PATH','w')}",
    r"The answer is open('PATH','w')",
    r"\boxed{__import__('os').system('touch PATH')}",
    r"\boxed{\text{__import__('os').system('touch PATH')}}",
    r"\boxed{().__class__.__base__.__subclasses__()}",
    r"$\input{PATH}\immediate\write18{touch PATH}$",
    "```python\nopen('PATH', 'w')\n```",
)


def test_hostile_completions_end_within_the_limit_are_ungradable_and_harm_nothing_else() -> None:
    items = []
    for name, completion in HOSTILE.items():
        items += [
            ("42", completion),
            ("42", f"\\boxed{{42}} after {name}"),
            ("42", f"\\boxed{{41}} after {name}"),
        ]
    with GraderPool(workers=2, timeout_s=TIMEOUT_S) as pool:
        before = time.monotonic()
        verdicts = pool.grade(items, "math_verify")
        elapsed = time.monotonic() - before
        assert [name for name, verdict in zip(HOSTILE, verdicts[::3], strict=True) if verdict.correct is not None] == []
        assert all(verdict.reason for verdict in verdicts[::3])
        assert [verdict.correct for verdict in verdicts[1::3]] == [True] * len(HOSTILE)
        assert [verdict.correct for verdict in verdicts[2::3]] == [False] * len(HOSTILE)
        # Each costs at most the limit and the start of a new child, here on a machine with other work too.
        assert elapsed < len(HOSTILE) * (TIMEOUT_S + 2.0)
        before = time.monotonic()
        again = pool.grade([items[0]] * 1000, "math_verify")
        assert time.monotonic() - before < TIMEOUT_S + 2.0  # equal completions are graded once
        assert {verdict.correct for verdict in again} == {None}


def test_strange_completions_are_wrong() -> None:
    items = [("42", completion) for completion in HARMLESS.values()]
    with GraderPool(timeout_s=30.0) as pool:
        for grader in ("math_verify", "exact"):
            assert [verdict.correct for verdict in pool.grade(items, grader)] == [False] * len(items), grader


def test_code_in_a_completion_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [("42", code.replace("PATH", where)) for code in CODE for where in (str(tmp_path / "made"), "made")]
    with GraderPool(timeout_s=30.0) as pool:
        for grader in ("math_verify", "exact"):
            assert True not in [verdict.correct for verdict in pool.grade(items, grader)]
    assert list(tmp_path.iterdir()) == []


def test_exhausted_memory_and_depth_are_ungradable_although_sympy_swallows_them() -> None:
    expansion = r"\boxed{(x+y+z+1)^{200}}"
    with GraderPool(timeout_s=60.0, memory_mib=64) as pool:
        verdicts = pool.grade([("42", HOSTILE["power tower"]), ("42", expansion)], "math_verify")
    assert verdicts[0] == Verdict(None, "2^{2^{2^{2^{2^{2}}}}}", "out of memory")
    assert verdicts[1].correct is None
    assert verdicts[1].reason in ("out of memory", "nested too deeply")


def _hang() -> None:
    limit_process(memory_mib=1024)
    grade("42", HOSTILE["factorial"], seconds=0.1)


def test_a_hung_child_ends_without_its_parent() -> None:
    child = multiprocessing.get_context("spawn").Process(target=_hang)
    child.start()
    child.join(timeout=30)
    assert child.exitcode == -signal.SIGALRM
