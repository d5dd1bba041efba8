"""A storage on a file system of its own, which can become full or fail as disks do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BYTES = 2**30


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """A place for the block: an empty ext4 file system of its own, or just a directory where none can be mounted."""
    image, place = directory / "image", directory / "mounted"
    image.touch()
    os.truncate(image, BYTES)
    place.mkdir()
    if shutil.which("mkfs.ext4"):
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        _mount(place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], capture_output=True)  # who reads MLflow's database keeps it open


def fill(place: Path) -> None:
    """Leaves no room for a further block, as other users of a disk do."""
    with _filler(place).open("wb", buffering=0) as file, suppress(OSError):
        for size in (2**20, 2**12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)


def fail(place: Path) -> None:
    """As a disk does that fails: the file system notices an error, and takes no more writes."""
    [device] = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {place} " in line]
    Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")


def mend(place: Path) -> None:
    """Undoes `fill` and `fail`."""
    try:
        _filler(place).unlink(missing_ok=True)
        place.touch()
    except OSError:
        subprocess.run(["umount", place], check=True)
        subprocess.run(["fsck.ext4", "-p", _image(place)], check=False, capture_output=True)
        assert not (refused := _mount(place).stderr), refused


def _mount(place: Path) -> subprocess.CompletedProcess[str]:
    options = "loop,errors=remount-ro"
    return subprocess.run(["mount", "-o", options, _image(place), place], capture_output=True, text=True)


def _image(place: Path) -> Path:
    return place.with_name("image")


def _filler(place: Path) -> Path:
    return place / "of-others"
