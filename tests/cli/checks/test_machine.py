"""A machine with too little of something."""

from __future__ import annotations

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from dft_sweeps.cli.checks import machine
from dft_sweeps.cli.checks.finding import Context
from tests.cli.checks.advised import advised

Usage = namedtuple("Usage", "total used free")


def test_one_core(context: Context) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        advised(machine.cores(context), "failed", "1 CPU core", "taskset")
        context.address = "head:6379"
        advised(machine.cores(context), "warning", "not at head:6379", "nothing, if the cluster has them")
    finally:
        os.sched_setaffinity(0, before)


def test_little_memory(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{3 * machine.GIB}\n")
    (tmp_path / "memory.current").write_text(f"{machine.GIB}\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    advised(machine.memory(context), "failed", "2.0 GiB of memory available", "docker run --memory")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("Memory", "available")(machine.GIB))
    advised(machine.memory(context), "failed", "1.0 GiB of memory available", "ps aux --sort -rss")


def test_dockers_little_shared_memory(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    advised(machine.shared_memory(context), "warning", "0.06 GiB free in /dev/shm", "--shm-size 2g")


def test_a_full_disk(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 100 - machine.GIB, machine.GIB))
    advised(machine.disk(context), "failed", f"1.0 GiB free at {tmp_path}, but 2 GiB", f"du -sh {context.storage}")
    usage = Usage(100 * machine.GIB, 97 * machine.GIB, 3 * machine.GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    advised(machine.disk(context), "warning", "over 95% full (3.0 GiB free)", "export RAY_TMPDIR=")


def test_a_taken_port(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(machine, "UI_PORT", server.getsockname()[1])
        finding = machine.port(context)
        advised(finding, "warning", f"port {machine.UI_PORT} is taken", "dft-sweeps ui --port ")
        with socket.create_server(("127.0.0.1", int(finding.advice.split()[-1]))):
            pass
    assert machine.port(context).status == "ok"
