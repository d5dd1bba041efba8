"""Ctrl-C and its like: what they end, what they wait for, and that none is lost."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.05


def heed_interrupts() -> None:
    """Has Ctrl-C, a terminal that closes and a polite kill end this process by KeyboardInterrupt."""
    if threading.current_thread() is threading.main_thread():
        for number in _INTERRUPTS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """A terminal that closes, or a polite kill, ends a sweep as Ctrl-C does."""
    raise KeyboardInterrupt


def repeat_lost_interrupts() -> None:
    """Has a Ctrl-C come again that came amid a destructor or a callback of Python's memory management (SQLAlchemy has
    some): what is raised there, nothing can catch, and Python drops it."""
    report = sys.unraisablehook

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            threading.Thread(target=_interrupt_again, daemon=True).start()
        else:
            report(what)

    sys.unraisablehook = dropped


def _interrupt_again() -> None:
    """Interrupts the main thread, once it heeds it."""
    heeded: list[signal.Signals] = []
    while not heeded:
        time.sleep(_AGAIN_S)
        heeded = [number for number in _INTERRUPTS if signal.getsignal(number) is not signal.SIG_IGN]
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, heeded[0])


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Ctrl-C and its like end this process after the block, and not amid what belongs together in it."""
    came: list[int] = []
    with _handled_by(lambda number, frame: came.append(number)):
        yield
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C waits until the block has cleaned up."""
    with _handled_by(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Gives this handler the interrupts that are not ignored, for the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = {number: old for number in _INTERRUPTS if (old := signal.getsignal(number)) is not signal.SIG_IGN}
    try:
        for number in heeded:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in heeded.items():
            signal.signal(number, old)
