from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dft_sweeps.data.durable import put_in_place
from tests.data.durably import require_durable


def write_file(path: Path) -> Path:
    path.write_text("new")
    return path


def write_directory(path: Path) -> Path:
    (path / "below").mkdir(parents=True)
    write_file(path / "one")
    write_file(path / "below" / "two")
    return path


@pytest.mark.parametrize("write", [write_file, write_directory])
def test_a_name_is_given_to_what_is_on_the_disk(write: Callable[[Path], Path], tmp_path: Path) -> None:
    require_durable(lambda place: put_in_place(write(place.with_name("partial")), place), tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_what_cannot_be_flushed_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = tmp_path / "place"
    place.write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        put_in_place(write_file(tmp_path / "partial"), place)
    assert place.read_text() == "old"
