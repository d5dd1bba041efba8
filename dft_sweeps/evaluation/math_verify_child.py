"""What a grading child runs: math-verify on one completion, inside limits that the parent and the kernel
enforce.

Imported in child processes only, so that sympy never enters the parent. A child keeps no state but
math-verify's caches; it may be killed at any moment.
"""

from __future__ import annotations

import functools
import logging
import resource
import signal
import sys
from types import FrameType
from typing import Any

import psutil
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

LONGEST_ANSWER = 512
"""Longest extracted answer that is compared, in characters."""

# math-verify caches the patterns of one LaTeX configuration: a second one would compile them every time.
_TARGETS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_SWALLOWED = (MemoryError, RecursionError)


@functools.cache
def limit_process(memory_mib: int) -> None:
    """Bounds this process: `memory_mib` beyond what it has now, no core dump, a SIGTERM that always kills."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    limit = psutil.Process().memory_info().vms + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A Python-level handler waits for the end of a long C call; the default action does not.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def grade(gold: str, completion: str, seconds: float) -> tuple[bool | None, str | None, str]:
    """Verdict of math-verify: (correct, extracted answer, reason). `correct` is None where it cannot say.

    The kernel kills this process one second after `seconds` even if nobody else does: a parent that died
    cannot leave a busy child behind.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds + 1.0)
    watch = _Watch()
    try:
        with watch:
            return _grade(gold, completion, watch)
    except _SWALLOWED as error:
        return None, None, _exhausted(type(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _grade(gold: str, completion: str, watch: _Watch) -> tuple[bool | None, str | None, str]:
    golds = parse(f"\\boxed{{{gold}}}", _TARGETS, parsing_timeout=None)
    if not golds or isinstance(golds[0], str):
        return None, None, f"the benchmark's answer {gold!r} does not parse"
    found = parse(completion, _TARGETS, parsing_timeout=None)
    if not found:
        return (False, None, "no answer found") if watch.exhausted is None else (None, None, watch.exhausted)
    extracted = str(found[-1])
    if len(extracted) > LONGEST_ANSWER:
        return None, None, f"the answer has {len(extracted)} characters, more than {LONGEST_ANSWER}"
    if verify(golds, found, timeout_seconds=None):
        return True, extracted, "equal"
    if watch.exhausted is not None:
        return None, extracted, watch.exhausted
    return False, extracted, "not equal"


def _exhausted(error: type[BaseException]) -> str:
    return "out of memory" if issubclass(error, MemoryError) else "nested too deeply"


class _Watch:
    """Notices errors of exhaustion that math-verify and sympy swallow, and would report as a wrong answer."""

    def __init__(self) -> None:
        self._seen: type[BaseException] | None = None

    def __enter__(self) -> None:
        sys.settrace(self._on_call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    @property
    def exhausted(self) -> str | None:
        """What ran out, if anything did."""
        # Python switches a trace function off when calling it fails, as it does at the recursion limit.
        if self._seen is None and sys.gettrace() is None:
            return _exhausted(RecursionError)
        return None if self._seen is None else _exhausted(self._seen)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and issubclass(argument[0], _SWALLOWED):
            self._seen = argument[0]
        return self._on_event
