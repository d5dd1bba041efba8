"""The machine: cores, memory, shared memory, disk and the port of MLflow's pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

from dft_sweeps.cli.checks.finding import Context, Finding, failed, ok, warning
from dft_sweeps.cli.checks.storage import nearest_existing
from dft_sweeps.cli.ui import port_error
from dft_sweeps.orchestration.cluster import free_port

GIB = 2**30
CORES = 2
"""One for a trial and one for an engine."""
MEMORY = 4 * GIB
DISK = 2 * GIB
SHARED_MEMORY = GIB
FULLEST = 0.95
"""Ray makes no more objects once the disk of its temporary directory is fuller than this."""
UI_PORT = 5000
_CGROUP = Path("/sys/fs/cgroup")
_SHM = Path("/dev/shm")


def cores(context: Context) -> Finding:
    count = len(os.sched_getaffinity(0))
    if count >= CORES:
        return ok(f"{count} CPU cores")
    found = f"{count} CPU core, but a trial and an engine take one each"
    if context.address:
        return warning(f"{found}; on this machine only, not at {context.address}", "nothing, if the cluster has them")
    return failed(found, "run where there are 2 cores (docker run --cpus 2, taskset -c 0,1), or --address a cluster")


def memory(context: Context) -> Finding:
    available = available_memory()
    if available >= MEMORY:
        return ok(f"{available / GIB:.1f} GiB available")
    found = f"{available / GIB:.1f} GiB of memory available, but Ray, a trial and an engine take {MEMORY / GIB:g} GiB"
    if context.address:
        return warning(f"{found}; on this machine only, not at {context.address}", "nothing, if the cluster has them")
    return failed(found, "ps aux --sort -rss | head   # what to end; or docker run --memory 6g, or --address a cluster")


def available_memory() -> int:
    """Bytes that can still be had, within the container's limit where there is one."""
    available: int = psutil.virtual_memory().available
    limit, usage = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        return min(available, int(most) - int(usage.read_text()))
    return available


def shared_memory(_context: Context) -> Finding:
    """Ray keeps its objects in shared memory; where there is too little, on disk."""
    free = shutil.disk_usage(_SHM).free
    if free >= SHARED_MEMORY:
        return ok(f"{free / GIB:.1f} GiB free in {_SHM}")
    return warning(
        f"{free / GIB:.2f} GiB free in {_SHM}, so that Ray keeps its objects on disk, slowly",
        "docker run --shm-size 2g ...   # or, on the machine itself: sudo mount -o remount,size=2G /dev/shm",
    )


def disk(context: Context) -> Finding:
    """Room for checkpoints in the storage directory, and for Ray in its temporary directory."""
    storage = nearest_existing(context.storage)
    free = shutil.disk_usage(storage).free
    if free < DISK:
        advice = f"du -sh {context.storage}/*   # what takes the room; or --storage a directory on a larger disk"
        return failed(f"{free / GIB:.1f} GiB free at {storage}, but {DISK / GIB:g} GiB are needed", advice)
    temporary = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    usage = shutil.disk_usage(temporary)
    if usage.used > FULLEST * (usage.used + usage.free):
        found = f"{temporary} is on a disk over {FULLEST:.0%} full ({usage.free / GIB:.1f} GiB free): Ray stops there"
        return warning(found, "export RAY_TMPDIR=...   # a directory on an emptier disk, with a short name")
    return ok(f"{free / GIB:.1f} GiB free at {storage}")


def port(_context: Context) -> Finding:
    if port_error(UI_PORT) is None:
        return ok(f"port {UI_PORT} is free for MLflow's pages")
    return warning(f"port {UI_PORT} is taken by another program", f"dft-sweeps ui --port {free_port()}")
