"""Running the real command in a process of its own, and telling which processes it left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

SPEC = Path(__file__).parent / "sweep.yaml"
MARK = "DFT_SWEEPS_TEST_RUN"
SETTLE_S = 0.1
"""A stopped process ends the call to the kernel that it is in first."""
ENDING_S, NOTICING_S = 20.0, 180.0
"""How long processes may take to end that were told to, and those that nobody tells."""
PATIENCE_S = 800.0
"""For a command, which on a machine that does much else takes many times its minute."""
Find = Callable[[str], list[psutil.Process]]
Do = Callable[[int, str], object]
"""Takes a command's pid and mark."""
Disturb = Callable[["Running"], object]


@dataclass(frozen=True)
class Output:
    started: float
    """When the command started, on this process' monotonic clock: its own starts after imports."""
    lines: list[str]
    times: list[float]
    """When each line came."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def first(self, sign: str, since: float = 0.0) -> tuple[float, re.Match[str]]:
        """When the first line came, at `since` or after, in which this is found, and where in it."""
        if found := self.look(sign, since):
            return found
        raise AssertionError(f"no {sign!r} {since - self.started:.1f} s or more after the start:\n{self.text}")

    def look(self, sign: str, since: float = 0.0) -> tuple[float, re.Match[str]] | None:
        """As `first`; None where there is no such line (yet)."""
        for at, line in zip(self.times, self.lines, strict=False):  # of the last line, perhaps only the time is there
            if at >= since and (found := re.search(sign, line)):
                return at, found
        return None

    def seconds_to(self, sign: str) -> float:
        """From the command's start."""
        return self.first(sign)[0] - self.started


@dataclass(frozen=True)
class Running(Output):
    """A command, and all that it starts."""

    process: subprocess.Popen[str]
    mark: str

    @property
    def pid(self) -> int:
        return self.process.pid

    def over(self) -> bool:
        return self.process.poll() is not None


@dataclass(frozen=True)
class Finished(Output):
    code: int
    left: list[str]
    """Command lines of processes of the run that outlived it."""


def heed_interrupts() -> None:
    """In a child before it starts: a shell's background jobs ignore SIGINT, and so would every child of theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(pid: int, mark: str) -> None:
    """Ctrl-C, as a terminal sends it: to the whole process group."""
    os.killpg(pid, signal.SIGINT)


def kill_hard(pid: int, mark: str) -> None:
    """kill -9 of the command and its process group: nothing of it gets to clean up."""
    os.killpg(pid, signal.SIGKILL)


def of_kind(mark: str, kind: str) -> list[psutil.Process]:
    """A run's processes with this in their titles."""
    return [process for process in marked(mark) if kind in title(process)]


def trainers(mark: str) -> list[psutil.Process]:
    """The processes in which a run's trials train."""
    return of_kind(mark, "RayTrainWorker")


def nothing(mark: str) -> list[psutil.Process]:
    return []


def kill_train_worker(pid: int, mark: str) -> None:
    """kill -9 of the process in which a trial trains."""
    for process in trainers(mark):
        process.kill()


def at(when: Callable[[], bool], do: Do, still: Find = trainers) -> Disturb:
    """Calls `do` while `when` holds. What `still` finds by the mark stands still then, so that `when` still holds."""
    return lambda running: do_while(
        when, partial(do, running.pid, running.mark), partial(still, running.mark), running.over
    )


def run(
    *arguments: str,
    at_line: str | None = None,
    do: Do = interrupt,
    disturb: Disturb | None = None,
    environment: dict[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
) -> Finished:
    """`dft-sweeps` with these arguments; at the first line that holds `at_line`, calls `do` with its pid and mark.
    `disturb` is called in a thread of its own; what it raises is raised once the command has ended."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    started = time.monotonic()
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
    lines: list[str] = []
    times: list[float] = []
    errors: list[BaseException] = []

    def disturbing(running: Running) -> None:
        try:
            disturb and disturb(running)
        except BaseException as error:
            errors.append(error)

    threading.Thread(target=disturbing, args=(Running(started, lines, times, process, mark),), daemon=True).start()
    done = at_line is None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            times.append(time.monotonic())
            lines.append(line.rstrip("\n"))
            if not done and at_line in line:
                done = True
                do(process.pid, mark)
        code = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:  # the test was given up
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if errors:
        raise AssertionError(f"{errors[0]}:\n" + "\n".join(lines)) from errors[0]
    return Finished(started, lines, times, code, _survivors(mark, code))


def do_while(
    when: Callable[[], bool],
    do: Callable[[], object],
    still: Callable[[], list[psutil.Process]],
    over: Callable[[], bool],
) -> bool:
    """Calls `do` while `when` holds: what `still` finds stands still from then on until it was done. False if it is
    `over` before."""
    stopped: list[psutil.Process] = []
    looked = 0.0
    while not over():
        if when():
            with standing_still(stopped):
                time.sleep(SETTLE_S if stopped else 0)
                if when():
                    do()
                    return True
        elif not any(one.is_running() for one in stopped) and time.monotonic() > looked + 1.0:
            stopped, looked = still(), time.monotonic()  # not when it is time: to look takes a while
        time.sleep(0.002)
    return False


@contextlib.contextmanager
def standing_still(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stops processes for the block, those aside that have ended or end in it."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _survivors(mark: str, code: int) -> list[str]:
    """Command lines of processes that outlived the command, those aside that are about to end."""
    deadline = time.monotonic() + (NOTICING_S if code == -signal.SIGKILL else ENDING_S)
    while (left := of_kind(mark, "")) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [title(process)[:120] for process in left]


def title(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def locked(locks: Iterable[Path]) -> list[Path]:
    """Those of these files that some process of this machine holds a lock on."""
    held = {line.split()[-3].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
    return [lock for lock in locks if str(lock.stat().st_ino) in held]


def marked(mark: str) -> list[psutil.Process]:
    """Every living process of a run, however it was started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found
