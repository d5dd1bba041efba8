"""What an engine said while it started: kept, so that an engine that does not start can be told why with its own words.

The process's own output goes where it always goes. Only its end is read again, and only when the start failed.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LINES = 25
_HEADING = "the engine's log ends with:\n"
_TAIL_BYTES, _WIDTH = 1 << 16, 300


class EngineStartError(RuntimeError):
    """The engine could not be started; the message ends with the last lines of its log, or what is known instead."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(_HEADING + "\n".join(lines))
        self.lines = lines

    def __reduce__(self) -> tuple[type[EngineStartError], tuple[list[str]]]:
        return EngineStartError, (self.lines,)


def reason(message: str) -> str:
    """The end of an engine's log where the message, however wrapped, has one; else the message's own last lines."""
    text = message.rpartition(_HEADING)[2]
    return "\n".join(text.strip().splitlines()[-LINES:])


@contextmanager
def told_on_failure() -> Iterator[None]:
    """Turns whatever ends the block into an `EngineStartError` with the last lines logged and printed in it.

    In order: what vLLM logged from level INFO on and did not print, standard output and standard error (as far as they
    are files), the error. The environment that vLLM reads at import must be set before.
    """
    before = {descriptor: _size(descriptor) for descriptor in (1, 2)}
    logged = _Unprinted()
    try:
        with logged.collected():
            yield
    except Exception as error:
        printed = [line for descriptor, size in before.items() for line in _written(descriptor, size)]
        told = "".join(traceback.format_exception_only(error)).splitlines()
        lines = [*map(_shortened, (*logged.lines, *printed)), *told]
        raise EngineStartError([line for line in lines if line.strip()][-LINES:]) from error


class _Unprinted(logging.Handler):
    """The last lines of vLLM's log that its own handlers leave out."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: deque[str] = deque(maxlen=LINES)
        self._printed_from = logging.CRITICAL

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < self._printed_from:
            self.lines.extend(f"{record.levelname} {record.getMessage()}".splitlines())

    @contextmanager
    def collected(self) -> Iterator[None]:
        import vllm.logger  # sets up what is changed here

        log = logging.getLogger(vllm.__name__)
        level = log.level
        self._printed_from = max(level, *(handler.level for handler in log.handlers), 0)
        log.setLevel(min(level, logging.INFO))
        log.addHandler(self)
        try:
            yield
        finally:
            log.removeHandler(self)
            log.setLevel(level)


def _size(descriptor: int) -> int:
    """Bytes in the file behind a descriptor; 0 for what is no file."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _written(descriptor: int, before: int) -> list[str]:
    """Lines added to the file behind a descriptor since it had `before` bytes, of the last 64 KiB."""
    stream = sys.stdout if descriptor == 1 else sys.stderr
    stream.flush()
    end = _size(descriptor)
    if end <= before:
        return []
    with Path(os.readlink(f"/proc/self/fd/{descriptor}")).open("rb") as file:
        file.seek(max(before, end - _TAIL_BYTES))
        return file.read(end - file.tell()).decode(errors="replace").splitlines()


def _shortened(line: str) -> str:
    """vLLM logs its whole configuration in one line of thousands of characters."""
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]} ..."
