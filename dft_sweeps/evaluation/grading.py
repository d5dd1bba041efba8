"""Graders: from a benchmark's answer and a completion to a verdict, without ever executing text.

A completion is hostile until proven otherwise. Its answer is cut out here, in linear time; `strict` and `paper` judge
it in child processes that are killed when they exceed a limit of CPU time, memory or wall-clock time. What they were
grading is then ungradable, which counts as wrong in accuracies, and is counted by itself and reported. State: verdicts
by (gold, extracted answer), in memory and bounded; ungradable ones are not kept, so that a starved machine's are
judged anew.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import signal
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.graders.extract import last_boxed, paper_answer, paper_choice, strict_answer
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

GRADERS = {
    "exact": "1",
    "strict": "math-verify-0.9.0-2",
    "paper": "2",
}
"""Version of each grader, raised whenever a verdict may change. strict: math-verify's release, then ours."""

_CHILD_MODULE = "dft_sweeps.evaluation.graders.child"
_MOST_VERDICTS = 200_000
"""Verdicts kept; beyond them the oldest go."""
_LONGEST_KEY = 512
"""Longest extracted answer whose verdict is kept, in characters."""


@dataclass(frozen=True)
class Verdict:
    correct: bool | None
    """None: ungradable (time, memory or nesting ran out, or the grader crashed)."""
    extracted: str | None
    """The answer as the grader read it; None where it found none."""
    reason: str


class _Job(NamedTuple):
    """What a child is asked: a grader, and its arguments with the extracted answer among them."""

    grader: str
    arguments: tuple[Any, ...]
    answer: str


def grader_version(grader: str) -> str:
    """``name/version`` of a grader, which is part of a `grade_id`."""
    if grader not in GRADERS:
        raise SpecError(f"unknown grader {grader!r}; valid are {', '.join(GRADERS)}")
    return f"{grader}/{GRADERS[grader]}"


def grading_processes(cores: int) -> int:
    """As many as keep up with the share of engines of a machine of so many, about 200 answers a second each: a quarter
    of its cores, at most 8."""
    return max(1, min(8, cores // 4))


class GraderPool:
    """Grades completions; close it (or use it as a context manager) to end its child processes.

    Children start at the first completion for `strict` or `paper`, `workers` of them. One answer may take `timeout_s`
    seconds of CPU time, 20 times that by the clock (so that a busy machine makes nothing ungradable), and `memory_mib`
    of memory. Several threads may share a pool.
    """

    def __init__(self, workers: int = 1, timeout_s: float = 3.0, memory_mib: int = 1024) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mib < 64:
            raise ValueError("a grader pool needs workers >= 1, timeout_s > 0 and memory_mib >= 64")
        self._workers = workers
        self._timeout_s = timeout_s
        self._wall_s = 20 * timeout_s
        self._limits = (timeout_s, self._wall_s + 1.0, memory_mib)
        self._children: ProcessPool | None = None
        self._lock = threading.Lock()
        self._known: dict[Hashable, Verdict] = {}

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

    def grade(self, items: Sequence[tuple[Gold | str, str]], grader: str) -> list[Verdict]:
        """Verdicts of (answer, completion) pairs, in their order. Equal extracted answers are graded once.

        Raises:
            SpecError: no grader of that name.
        """
        grader_version(grader)
        if grader == "exact":
            return [_exact(gold.text if isinstance(gold, Gold) else gold, text) for gold, text in items]
        golds = {gold: Gold.of(gold) if isinstance(gold, str) else gold for gold, _ in items}
        make = _strict_job if grader == "strict" else _paper_job
        jobs = [make(golds[gold], text) for gold, text in items]
        verdicts = self._judged(dict.fromkeys(job for job in jobs if isinstance(job, _Job)))
        return [verdicts[job] if isinstance(job, _Job) else job for job in jobs]

    def _judged(self, jobs: dict[_Job, None]) -> dict[_Job, Verdict]:
        found = {job: known for job in jobs if (known := self._known.get(job)) is not None}
        missing = [job for job in jobs if job not in found]
        if not missing:
            return found
        children = self._started()
        futures = [
            children.schedule(_judge_in_child, (job.grader, job.arguments, *self._limits), timeout=self._wall_s)
            for job in missing
        ]
        for job, future in zip(missing, futures, strict=True):
            found[job] = self._outcome(future)
            self._keep(job, found[job])
        return found

    def _keep(self, job: _Job, verdict: Verdict) -> None:
        if verdict.correct is None or len(job.answer) > _LONGEST_KEY:
            return
        with self._lock:
            self._known[job] = verdict
            while len(self._known) > _MOST_VERDICTS:
                del self._known[next(iter(self._known))]

    def _outcome(self, future: ProcessFuture[Any]) -> Verdict:
        from pebble import ProcessExpired

        error = future.exception()
        if error is None:
            return Verdict(*future.result())
        if isinstance(error, BrokenProcessPool | ImportError):
            raise error
        if isinstance(error, concurrent.futures.TimeoutError):
            return Verdict(None, None, f"took longer than {self._wall_s:g} s")
        if isinstance(error, ProcessExpired) and error.exitcode == -signal.SIGPROF:
            return Verdict(None, None, f"took more than {self._timeout_s:g} s of CPU time")
        if isinstance(error, ProcessExpired):
            return Verdict(None, None, f"the grading process died with exit code {error.exitcode}")
        return Verdict(None, None, f"the grader raised {type(error).__name__}")

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._children is None:
                from pebble import ProcessPool

                # A fork server: children come from a process without threads that has the graders loaded and warm.
                context = multiprocessing.get_context("forkserver")
                context.set_forkserver_preload([_CHILD_MODULE])
                self._children = ProcessPool(self._workers, context=context)
            return self._children


def _judge_in_child(
    grader: str, arguments: tuple[Any, ...], cpu_s: float, wall_s: float, memory_mib: int
) -> tuple[bool | None, str | None, str]:
    from dft_sweeps.evaluation.graders.child import judge

    return judge(grader, arguments, cpu_s, wall_s, memory_mib)


_NO_ANSWER = Verdict(False, None, "no answer found")


def _strict_job(gold: Gold, text: str) -> _Job | Verdict:
    answer = strict_answer(text)
    if answer is None or not answer.strip():
        return _NO_ANSWER
    return _Job("strict", (gold.text, gold.several, gold.tolerance, answer), answer)


def _paper_job(gold: Gold, text: str) -> _Job | Verdict:
    text = text.strip()
    if not text:
        return _NO_ANSWER
    answer = paper_answer(text)
    # Where the gold is a letter, the harness looks for one in the whole completion.
    choice = paper_choice(text) if len(gold.paper) == 1 and gold.paper in "ABCDE" else ""
    choice = choice if len(choice) == 1 else ""
    return _Job("paper", (gold.paper, gold.keeps_units, answer, choice), answer)


def _exact(gold: str, completion: str) -> Verdict:
    boxed = last_boxed(completion)
    if boxed is None:
        return _NO_ANSWER
    answer = boxed.strip()
    return Verdict(True, answer, "equal") if answer == gold else Verdict(False, answer, "not equal")
