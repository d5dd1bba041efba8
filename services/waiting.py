"""Submitted sweeps that wait for their turn, in the order in which they came: for each a file of the storage, and no
process.

Each sweep counts with the whole cluster, so several at once may hold engines and leave no room for trials. Who waits
outlives the service and its cluster. Files change under one lock; where a job was started and its file stayed, Ray
knows the job, and it is not started again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from dft_sweeps.orchestration.locks import file_lock

DIRECTORY = "queue"


def changing(storage: Path) -> contextlib.AbstractContextManager[None]:
    """Waits until nobody else starts sweeps or changes who waits, and keeps them from it for the block."""
    return file_lock(storage / DIRECTORY / ".lock")


def waiting(storage: Path) -> list[str]:
    """Submission ids, the first to be started first."""
    return [_id(path) for path in sorted((storage / DIRECTORY).glob("*.waiting"))]


def join(storage: Path, submission_id: str) -> None:
    """Puts one behind all others; call it while `changing`."""
    numbers = [int(path.name.partition("-")[0]) for path in (storage / DIRECTORY).glob("*.waiting")]
    (storage / DIRECTORY / f"{max(numbers, default=0) + 1:09d}-{submission_id}.waiting").touch()


def leave(storage: Path, submission_id: str) -> None:
    """Takes one out; call it while `changing`."""
    for path in (storage / DIRECTORY).glob("*.waiting"):
        if _id(path) == submission_id:
            path.unlink()


def _id(path: Path) -> str:
    return path.stem.partition("-")[2]
