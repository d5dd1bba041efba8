"""Files and directories under names that they get only when all of them is on the disk, so that no crash of the
machine leaves an empty or half a file under such a name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_MORE_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""Errors of a storage that is full, read-only or broken."""


def put_in_place(written: Path, place: Path) -> None:
    """Renames a file, or a directory of files, and returns when all of it is on the disk.

    A file at `place` is replaced; a directory must not be there.

    Raises:
        OSError: the storage does not take it; nothing is at `place` that was not there before.
    """
    for file in written.rglob("*"):
        flush(file)
    flush(written)
    written.replace(place)
    flush(place.parent)


def flush(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
