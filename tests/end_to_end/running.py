"""Running the real command in a process of its own, and telling which processes it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

SPEC = Path(__file__).parent / "sweep.yaml"
MARK = "DFT_SWEEPS_TEST_RUN"


@dataclass(frozen=True)
class Finished:
    code: int
    lines: list[str]
    left: list[str]
    """Command lines of processes of the run that outlived it."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def run(
    *arguments: str,
    interrupt_when: Callable[[str], bool] | None = None,
    environment: dict[str, str] | None = None,
    timeout_s: float = 400,
) -> Finished:
    """`dft-sweeps` with these arguments; sends SIGINT to its process group, as a terminal does, at the first line
    that `interrupt_when` picks."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "dft_sweeps.cli.main", *arguments],
        env=own | (environment or {}) | {MARK: mark, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(timeout_s, process.kill)
    watchdog.start()
    lines = []
    interrupted = False
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if interrupt_when and not interrupted and interrupt_when(line):
            interrupted = True
            os.killpg(process.pid, signal.SIGINT)
    code = process.wait()
    watchdog.cancel()
    return Finished(code, lines, left_behind(mark))


def left_behind(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline())[:120])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
