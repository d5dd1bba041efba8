"""Child processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Has Linux send this process SIGTERM when the thread that started it has ended, however that ended. For
    `subprocess.Popen(preexec_fn=...)`."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
