"""One coordinator per trial and storage, one process that trains it, one that generates what a checkpoint is asked:
locks on files of the storage, which end with their process.

They are the kernel's (`flock`): a process that ends in whatever way, kill -9 included, holds none any more. They hold
between all processes of a machine, so between all sweeps that a Ray cluster's head node runs as jobs. Between machines
they hold where the storage's file system has such locks: NFS has them since Linux 2.6.12, and frees those of a machine
that is lost when its lease ends (version 4; 90 s by default). A named Ray actor would hold within one cluster alone,
and most sweeps here start a cluster of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import socket
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Self, TextIO

_SPARE_FILES = 512


class SweepLocks:
    """What this process holds of a storage: trials that it runs, and its place among those that run the sweep.

    Args:
        sweep_id: of the sweep that this process runs.
    """

    def __init__(self, storage: Path, sweep_id: str) -> None:
        self._trials, self._locks, self._sweep_id = storage / "trials", storage / "locks", sweep_id
        self._held: dict[str, TextIO] = {}
        self._present: TextIO | None = None

    def __enter__(self) -> Self:
        self._trials.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release_all()
        if self._present:
            self._present.close()
            self._present = None

    def taking(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no other process takes trials, begins a sweep or ends one, and keeps them from it for the
        block. What others hold is only ever given back meanwhile."""
        return file_lock(self._locks / "taking.lock")

    def take(self, training_ids: Iterable[str]) -> set[str]:
        """Takes those of these trials that no process runs, and says which; call it while `taking`."""
        wanted = [id_ for id_ in training_ids if id_ not in self._held]
        _allow_files(len(wanted))
        taken = set()
        for training_id in wanted:
            file = self._file(training_id).open("a+")
            if not try_lock(file):
                file.close()
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} of sweep {self._sweep_id} on {socket.gethostname()}")
            file.flush()
            self._held[training_id] = file
            taken.add(training_id)
        return taken

    def release(self, training_ids: Iterable[str]) -> None:
        for training_id in training_ids:
            self._held.pop(training_id).close()

    def release_all(self) -> None:
        self.release(list(self._held))

    def unheld(self, training_ids: Iterable[str]) -> set[str]:
        """Those that no other process runs; while `taking`, nobody begins to."""
        return {id_ for id_ in training_ids if id_ in self._held or is_free(self._file(id_))}

    def holder(self, training_id: str) -> str:
        """Who runs the trial, e.g. ``process 4711 of sweep s-0123456789abcdef``."""
        try:
            holder, _, host = self._file(training_id).read_text().partition(" on ")
        except FileNotFoundError:
            holder, host = "", ""
        where = "" if host == socket.gethostname() else f" on {host}"
        return f"{holder}{where}" if holder else "another process"

    def join(self) -> None:
        """Counts this process among those that run the sweep, until its end; call it while `taking`."""
        self._locks.mkdir(parents=True, exist_ok=True)
        self._present = (self._locks / f"{self._sweep_id}.lock").open("a")
        fcntl.flock(self._present, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Undoes `join`, and says whether this process was the last; call it while `taking`."""
        assert self._present is not None
        self._present.close()
        self._present = None
        return is_free(self._locks / f"{self._sweep_id}.lock")

    def _file(self, training_id: str) -> Path:
        return self._trials / f"{training_id}.lock"


def _allow_files(count: int) -> None:
    """Every lock is an open file, of which a shell's processes may have few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else count + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < min(count + _SPARE_FILES, most):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + _SPARE_FILES, most), hard))


def running_elsewhere(storage: Path, training_ids: Collection[str]) -> set[str]:
    """Those of these trials that some process runs now."""
    return {id_ for id_ in training_ids if not is_free(storage / "trials" / f"{id_}.lock")}


def is_free(path: Path) -> bool:
    """Whether nobody holds the file's lock now."""
    if not path.exists():
        return True
    with path.open("a") as file:
        return try_lock(file)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Waits for the lock of the file, which is made where it is not there, and holds it for the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def pool_name(storage: Path, sweep_id: str) -> Iterator[str]:
    """A name for a sweep's own pool of engines that no other process uses for the block: processes that run different
    trials of one sweep on one cluster have a pool each. The names of processes that were killed are used again, and
    with them what is left of their pools."""
    directory = storage / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        name = f"evaluation-{sweep_id}" + (f"-{number}" if number > 1 else "")
        with (directory / f"{name}.lock").open("a") as file:
            if try_lock(file):
                yield name
                return


@contextlib.contextmanager
def generation_lock(storage: Path, weights_digest: str, given_up: threading.Event) -> Iterator[None]:
    """Waits until nobody else generates with these weights, or until `given_up` is set."""
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
