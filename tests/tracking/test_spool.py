"""The spool keeps the order, survives what cuts a line short, and belongs to one process at a time."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

from dft_sweeps.tracking.spool import CHUNK_BYTES, Spool, leftovers, new_spool


def lines(spool: Spool, offset: int = 0) -> list[int]:
    return [write["n"] for write, _ in spool.after(offset)]


def test_a_spool_left_behind_is_read_from_where_the_sending_was(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    for number in range(5):
        spool.append({"n": number, "value": math.nan}, durable=number == 3)
    [*_, (_, offset)] = list(spool.after(0))[:2]
    spool.mark(offset, {"asked": "made"})
    assert list(leftovers(tmp_path)) == []  # this one is still held
    with spool.path.open("ab") as file:
        file.write(b'{"n": 5, "cut of')
    spool.close()
    [found] = leftovers(tmp_path)
    assert found.sent() == (offset, {"asked": "made"})
    assert lines(found, offset) == [2, 3, 4]
    found.remove()
    assert list(tmp_path.iterdir()) == []


def test_spools_come_back_oldest_first(tmp_path: Path) -> None:
    made = [new_spool(tmp_path) for _ in range(3)]
    for spool in made:
        spool.close()
    assert [spool.path for spool in leftovers(tmp_path)] == [spool.path for spool in made]


def test_writes_are_read_in_chunks(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    for number in range(4):
        spool.append({"n": number, "text": "x" * (CHUNK_BYTES * 6 // 10)}, durable=False)
    assert lines(spool) == [0, 1]
    assert [write["n"] for write, _ in spool.after(0, most=None)] == [0, 1, 2, 3]


def test_a_full_storage_leaves_the_spool_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = new_spool(tmp_path)
    spool.append({"n": 0}, durable=True)

    class Full:
        """Takes half of a line, as a disk with little left does."""

        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, line: bytes) -> int:
            return self.file.write(line[: len(line) // 2])  # type: ignore[attr-defined]

        def fileno(self) -> int:
            return self.file.fileno()  # type: ignore[attr-defined]

    whole = spool._file
    monkeypatch.setattr(spool, "_file", Full(whole))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        spool.append({"n": 1}, durable=True)
    monkeypatch.setattr(spool, "_file", whole)
    spool.append({"n": 2}, durable=True)
    assert lines(spool) == [0, 2]


def test_what_is_refused_is_set_aside_and_kept(tmp_path: Path) -> None:
    spool = new_spool(tmp_path)
    spool.append({"n": 0}, durable=False)
    aside = spool.refuse()
    assert list(leftovers(tmp_path)) == []
    assert aside.read_text() == '{"n": 0}\n'
