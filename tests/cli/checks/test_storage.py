"""Storage directories that cannot be written to, rename badly or do not lock."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from dft_sweeps.cli.checks import storage
from dft_sweeps.cli.checks.finding import Context
from tests.cli.checks.advised import advised


def test_storage_leaves_nothing(context: Context, tmp_path: Path) -> None:
    advised(storage.storage(context), "ok", f"where {context.storage} will be made", "")
    assert list(tmp_path.iterdir()) == []


def test_storage_below_a_file(context: Context, tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("")
    context.storage = tmp_path / "storage" / "deep"
    advised(storage.storage(context), "failed", "Not a directory", f"mkdir -p {context.storage}")


def test_storage_that_takes_no_files(context: Context) -> None:
    """Not even root makes files in /proc."""
    context.storage = Path("/proc/self/storage")
    advised(storage.storage(context), "failed", "cannot be written to", "--storage a directory that is yours")


def test_storage_whose_renames_lose_files(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", lambda _, target: target.mkdir())
    advised(storage.storage(context), "failed", "renamed directory does not hold", "a directory on a local disk")


def test_storage_without_locks(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    advised(storage.storage(context), "failed", "cannot be locked there (No locks available)", "NFS: without nolock")
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    advised(storage.storage(context), "failed", "two processes can hold the same lock", "on a local disk")
