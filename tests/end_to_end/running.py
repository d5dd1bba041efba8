"""Running the real command in a process of its own, and telling which processes it left behind."""

from __future__ import annotations

import contextlib
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


def heed_interrupts() -> None:
    """In a child before it starts: a shell's background jobs ignore SIGINT, and so would every child of theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(pid: int, mark: str) -> None:
    """Ctrl-C, as a terminal sends it: to the whole process group."""
    os.killpg(pid, signal.SIGINT)


def kill_hard(pid: int, mark: str) -> None:
    """kill -9 of the command and its process group: nothing of it gets to clean up."""
    os.killpg(pid, signal.SIGKILL)


def kill_train_worker(pid: int, mark: str) -> None:
    """kill -9 of the process in which a trial trains."""
    for process in marked(mark):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.kill()


def run(
    *arguments: str,
    at_line: str | None = None,
    when: Callable[[], bool] | None = None,
    do: Callable[[int, str], None] = interrupt,
    environment: dict[str, str] | None = None,
    timeout_s: float = 400,
) -> Finished:
    """`dft-sweeps` with these arguments; at the first line that holds `at_line`, or once `when` holds, calls `do` with
    its pid and mark."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "dft_sweeps.cli.main", *arguments],
        env=own | (environment or {}) | {MARK: mark, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    watchdog = threading.Timer(timeout_s, process.kill)
    watchdog.start()
    if when is not None:
        threading.Thread(target=_wait_and_do, args=(when, do, process, mark), daemon=True).start()
    lines = []
    done = at_line is None
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if not done and at_line in line:
            done = True
            do(process.pid, mark)
    code = process.wait()
    watchdog.cancel()
    return Finished(code, lines, [" ".join(left.cmdline())[:120] for left in _survivors(mark, code)])


def _wait_and_do(
    when: Callable[[], bool], do: Callable[[int, str], None], process: subprocess.Popen[str], mark: str
) -> None:
    while process.poll() is None:
        if when():
            return do(process.pid, mark)
        time.sleep(0.002)


def _survivors(mark: str, code: int) -> list[psutil.Process]:
    """Processes that outlived the command; after a kill -9 those that are left when the others have noticed."""
    deadline = time.monotonic() + (60 if code == -signal.SIGKILL else 0)
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def marked(mark: str) -> list[psutil.Process]:
    """Every living process of a run, however it was started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found
