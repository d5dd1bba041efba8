"""What waits to be sent to MLflow: an append-only file of JSON lines on the sweep's storage, and how far it was sent.

    <name>.jsonl        the writes, in their order
    <name>.jsonl.sent   the offset up to which MLflow has them, and the runs opened for them

A process that dies leaves its spool, whose lock it held until then; `leftovers` hands it to the next one. A write is
in the file before its caller goes on; a last line cut off by a crash counts as not written. What was sent may be sent
again if the process died before it noted that, so every write must be one that can be repeated.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 4 << 20
"""Writes that are sent between two notes of how far the sending is, at least one: some dozen rows of each of a thousand
runs."""


class Spool:
    """One spool, held by this process until `close`, `remove` or its end. One thread appends, one reads and marks."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self._sent = path.with_name(f"{path.name}.sent")

    def append(self, write: Mapping[str, Any], durable: bool) -> None:
        """Adds a write; `durable` ones are on the disk before this returns, and with them all before them.

        Raises:
            OSError: the storage does not take it; the spool is as it was.
        """
        line, end = json.dumps(write).encode() + b"\n", self._size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if durable:
                os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), end)
            raise

    @property
    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def sent(self) -> tuple[int, dict[str, str]]:
        """The offset up to which MLflow has the writes; and runs, from the id asked for to MLflow's."""
        if not self._sent.exists():
            return 0, {}
        noted = json.loads(self._sent.read_text())
        return noted["offset"], noted["runs"]

    @property
    def empty(self) -> bool:
        return self._size == 0

    def after(self, offset: int, most: int | None = CHUNK_BYTES) -> Iterator[tuple[dict[str, Any], int]]:
        """Writes from the offset on, about `most` bytes of them, each with the offset of its end."""
        with self.path.open("rb") as file:
            file.seek(offset)
            first = offset
            while (most is None or offset - first < most) and (line := file.readline()).endswith(b"\n"):
                offset += len(line)
                yield json.loads(line), offset

    def mark(self, offset: int, runs: Mapping[str, str]) -> None:
        """Notes how far the sending is, as in `sent`."""
        partial = self._sent.with_name(f".{self._sent.name}.partial")
        partial.write_text(json.dumps({"offset": offset, "runs": dict(runs)}))
        partial.replace(self._sent)

    def remove(self) -> None:
        """Gives it up: everything was sent."""
        self.path.unlink()
        self._sent.unlink(missing_ok=True)
        self.close()

    def refuse(self) -> Path:
        """Sets it aside for good, for somebody to look at; returns where."""
        aside = self.path.with_suffix(".refused")
        self.path.replace(aside)
        self._sent.unlink(missing_ok=True)
        self.close()
        return aside

    def close(self) -> None:
        """Leaves it to the next process."""
        self._file.close()


def new_spool(directory: Path) -> Spool:
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
    unseen = directory / f".{name}"
    file = unseen.open("ab", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    # Nobody finds it without its lock.
    unseen.replace(directory / name)
    return Spool(directory / name, file)


def leftovers(directory: Path) -> Iterator[Spool]:
    """The spools of processes that have ended, oldest first; each is held until it is closed or removed."""
    for path in sorted(directory.glob("[!.]*.jsonl")):
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        if os.fstat(file.fileno()).st_nlink == 0:  # another process has sent it meanwhile
            file.close()
            continue
        yield Spool(path, file)
