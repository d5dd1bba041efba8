"""What bounds a grading child: CPU time and memory by the kernel, and a watch for exhaustion that libraries swallow."""

from __future__ import annotations

import functools
import resource
import signal
import sys
from types import FrameType
from typing import Any

import psutil

_SWALLOWED = (MemoryError, RecursionError)


@functools.cache
def limit_process(memory_mib: int) -> None:
    """Bounds this process: `memory_mib` beyond what it has now, no core dump, signals that always kill."""
    limit = psutil.Process().memory_info().vms + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A Python-level handler waits for the end of a long C call; the default action does not.
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)


class Deadline:
    """Within it the kernel kills this process after `cpu_s` seconds of CPU time or `wall_s` of wall-clock time.

    The second is for a child whose parent died: a living parent kills it earlier.
    """

    def __init__(self, cpu_s: float, wall_s: float) -> None:
        self._limits = ((signal.ITIMER_PROF, cpu_s), (signal.ITIMER_REAL, wall_s))

    def __enter__(self) -> None:
        for timer, seconds in self._limits:
            signal.setitimer(timer, seconds)

    def __exit__(self, *_: object) -> None:
        for timer, _seconds in self._limits:
            signal.setitimer(timer, 0.0)


def exhausted(error: type[BaseException]) -> str:
    """What ran out, in words."""
    return "out of memory" if issubclass(error, MemoryError) else "nested too deeply"


class Watch:
    """Notices errors of exhaustion that math-verify and sympy swallow, and would report as a wrong answer."""

    def __init__(self) -> None:
        self._seen: type[BaseException] | None = None

    def __enter__(self) -> Watch:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        # Python switches a trace function off when calling it fails, as it does at the recursion limit.
        if self._seen is None and sys.gettrace() is None:
            self._seen = RecursionError
        sys.settrace(None)

    @property
    def exhausted(self) -> str | None:
        """What ran out within it, if anything did."""
        return None if self._seen is None else exhausted(self._seen)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "exception" and issubclass(argument[0], _SWALLOWED):
            self._seen = argument[0]
        return self._on_event
