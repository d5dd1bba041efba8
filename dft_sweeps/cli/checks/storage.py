"""The storage directory: whether it takes files, renames whole directories and locks between processes.

Nothing is left behind: what is tried is tried in a temporary directory, and a storage directory that is not there yet
is not made.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from pathlib import Path

from dft_sweeps.cli.checks.finding import Context, Finding, failed, ok

_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "w") as handle:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(0)
sys.exit(1)
"""
_LOCAL_DISK = "--storage a directory on a local disk, or mount it with locks (NFS: without nolock, version 4)"


def nearest_existing(directory: Path) -> Path:
    """The directory itself, or the lowest one above it that is there."""
    return next(place for place in (directory, *directory.parents) if place.exists())


def storage(context: Context) -> Finding:
    """Checkpoints are renamed into place, and two sweeps keep apart by locks: both must work there."""
    place = nearest_existing(context.storage)
    try:
        with tempfile.TemporaryDirectory(prefix=".dft-sweeps-doctor-", dir=place) as scratch:
            if not _renames(Path(scratch)):
                return failed(f"{place}: a renamed directory does not hold what was written", _LOCAL_DISK)
            if (trouble := lock_trouble(Path(scratch) / "lock")) is not None:
                return failed(f"{place}: {trouble}", _LOCAL_DISK)
    except OSError as error:
        return failed(f"{place} cannot be written to: {error.strerror}", _advice(context.storage))
    missing = "" if place == context.storage else f", where {context.storage} will be made"
    return ok(f"{place}{missing}: writable, renames and locks work")


def _advice(storage: Path) -> str:
    return f"mkdir -p {storage} && sudo chown -R $(id -un) {storage}   # or --storage a directory that is yours"


def _renames(scratch: Path) -> bool:
    """Renames a file over a file, and a directory with it to a new name."""
    (scratch / "partial").mkdir()
    (scratch / "partial" / "old").write_text("old")
    (scratch / "partial" / "new").write_text("new")
    (scratch / "partial" / "new").replace(scratch / "partial" / "old")
    (scratch / "partial").rename(scratch / "whole")
    return [(file.name, file.read_text()) for file in (scratch / "whole").iterdir()] == [("old", "new")]


def lock_trouble(file: Path) -> str | None:
    """Takes a lock here and tries it in a second process, which must be refused. What went wrong, if anything did."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"files cannot be locked there ({error.strerror})"
        refused = subprocess.run([sys.executable, "-c", _TRY_LOCK, str(file)], capture_output=True).returncode == 0
    return None if refused else "two processes can hold the same lock"
