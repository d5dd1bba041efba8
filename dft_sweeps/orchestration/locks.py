"""One coordinator per trial and storage, one process that trains it, one that generates what a checkpoint is asked:
locks that end with their process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from dft_sweeps.spec.errors import SpecError


@contextlib.contextmanager
def trial_locks(storage: Path, training_ids: Iterable[str]) -> Iterator[None]:
    """Holds the locks of these trials for the block.

    Raises:
        SpecError: another process on this machine is running one of them.
    """
    directory = storage / "trials"
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        for training_id in training_ids:
            file = held.enter_context((directory / f"{training_id}.lock").open("a+"))
            if not try_lock(file):
                file.seek(0)
                raise SpecError(
                    f"trial {training_id} is being run by process {file.read().strip() or 'unknown'}; wait for it"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


@contextlib.contextmanager
def generation_lock(storage: Path, weights_digest: str, given_up: threading.Event) -> Iterator[None]:
    """Waits until nobody else on this machine generates with these weights, or until `given_up` is set."""
    directory = storage / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"{weights_digest}.lock").open("a+") as file:
        while not try_lock(file) and not given_up.wait(1.0):
            continue
        yield


def try_lock(file: TextIO) -> bool:
    """Whether this process holds the lock of the open file now; it does until the file is closed or the process ends,
    however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
