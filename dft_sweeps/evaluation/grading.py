"""Graders: from a benchmark's answer and a completion to a verdict, without ever executing text.

A completion is hostile until proven otherwise. math-verify therefore runs in child processes that are killed
when they exceed a wall-clock or memory limit; what they were grading is then ungradable, which counts as
wrong in accuracies, and is counted by itself and reported. State: a cache of verdicts by content, in memory.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import re
import threading
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

GRADERS = {
    "exact": "1",
    "math_verify": "0.9.0-1",
}
"""Version of each grader, raised whenever a verdict may change. math_verify: its release, then ours."""

_CHILD_MODULE = "dft_sweeps.evaluation.math_verify_child"


@dataclass(frozen=True)
class Verdict:
    correct: bool | None
    """None: ungradable (time, memory or nesting ran out, or the grader crashed)."""
    extracted: str | None
    """The answer as the grader read it; None where it found none."""
    reason: str


def grader_version(grader: str) -> str:
    """``name/version`` of a grader, which is part of a `grade_id`."""
    if grader not in GRADERS:
        raise SpecError(f"unknown grader {grader!r}; valid are {', '.join(GRADERS)}")
    return f"{grader}/{GRADERS[grader]}"


class GraderPool:
    """Grades completions; close it (or use it as a context manager) to end its child processes.

    Children start at the first `math_verify` completion, `workers` of them. `timeout_s` is the wall-clock
    time and `memory_mib` the memory that one completion may take. Several threads may share a pool.
    """

    def __init__(self, workers: int = 1, timeout_s: float = 3.0, memory_mib: int = 1024) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mib < 64:
            raise ValueError("a grader pool needs workers >= 1, timeout_s > 0 and memory_mib >= 64")
        self._workers = workers
        self._timeout_s = timeout_s
        self._memory_mib = memory_mib
        self._children: ProcessPool | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child processes, whatever they are doing."""
        if self._children is not None:
            self._children.stop()
            self._children.join()
            self._children = None

    def grade(self, items: Sequence[tuple[str, str]], grader: str) -> list[Verdict]:
        """Verdicts of (answer, completion) pairs, in their order. Equal pairs are graded once.

        Raises:
            SpecError: no grader of that name.
        """
        grader_version(grader)
        distinct = list(dict.fromkeys(items))
        judge = _exact if grader == "exact" else self._math_verify
        verdicts = dict(zip(distinct, judge(distinct), strict=True))
        return [verdicts[item] for item in items]

    def _math_verify(self, items: Sequence[tuple[str, str]]) -> list[Verdict]:
        if not items:
            return []
        children = self._started()
        futures = [
            children.schedule(_grade_in_child, (*item, self._timeout_s, self._memory_mib), timeout=self._timeout_s)
            for item in items
        ]
        return [self._outcome(future) for future in futures]

    def _outcome(self, future: ProcessFuture[Any]) -> Verdict:
        from pebble import ProcessExpired

        error = future.exception()
        if error is None:
            return Verdict(*future.result())
        if isinstance(error, BrokenProcessPool | ImportError):
            raise error
        if isinstance(error, concurrent.futures.TimeoutError):
            return Verdict(None, None, f"took longer than {self._timeout_s:g} s")
        if isinstance(error, ProcessExpired):
            return Verdict(None, None, f"the grading process died with exit code {error.exitcode}")
        return Verdict(None, None, f"the grader raised {type(error).__name__}")

    def _started(self) -> ProcessPool:
        with self._starting:
            if self._children is None:
                from pebble import ProcessPool

                # A fork server: children come from a process without threads that has math-verify imported.
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload([_CHILD_MODULE])
                self._children = ProcessPool(self._workers, context=context)
            return self._children


def _grade_in_child(gold: str, completion: str, seconds: float, memory_mib: int) -> tuple[bool | None, str | None, str]:
    from dft_sweeps.evaluation.math_verify_child import grade, limit_process

    limit_process(memory_mib)
    return grade(gold, completion, seconds)


_BRACES = re.compile(r"\\boxed\{|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` whose braces are balanced, or None; one pass over the text."""
    open_starts: list[int | None] = []
    last: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace.group() != "}":
            open_starts.append(brace.end() if len(brace.group()) > 1 else None)
        elif open_starts:
            start = open_starts.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, brace.start())
    return None if last is None else text[last[0] : last[1]]


def _exact(items: Sequence[tuple[str, str]]) -> list[Verdict]:
    return [_exact_verdict(gold, completion) for gold, completion in items]


def _exact_verdict(gold: str, completion: str) -> Verdict:
    boxed = last_boxed(completion)
    if boxed is None:
        return Verdict(False, None, "no answer found")
    answer = boxed.strip()
    return Verdict(True, answer, "equal") if answer == gold else Verdict(False, answer, "not equal")
