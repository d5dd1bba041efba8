"""Whether what is saved is on the disk before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch


def require_durable(save: Callable[[Path], object], place: Path) -> None:
    """Saves, and asserts that all of it was flushed while `place` was not there, and its name after that."""
    flushed: dict[bool, set[int]] = {False: set(), True: set()}
    flush = os.fsync

    def watched(handle: int) -> None:
        flushed[place.exists()].add(os.fstat(handle).st_ino)
        flush(handle)

    with patch.object(os, "fsync", watched):
        save(place)
    files = {path.stat().st_ino for path in (place, *place.rglob("*"))}
    assert files and files <= flushed[False]
    assert place.parent.stat().st_ino in flushed[True]
