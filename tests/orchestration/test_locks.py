"""Two coordinators never run the same trial on the same storage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dft_sweeps.orchestration.locks import SweepLocks, file_lock, pool_name, running_elsewhere

HOLD = """
import sys
from pathlib import Path
from dft_sweeps.orchestration.locks import SweepLocks
with SweepLocks(Path(sys.argv[1]), "s-other") as locks:
    with locks.taking():
        assert locks.take(["t-1", "t-2"]) == {"t-1", "t-2"}
        locks.join()
    print("held", flush=True)
    sys.stdin.readline()
    locks.release(["t-1"])
    print("released", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other(storage: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds t-1 and t-2, and gives t-1 back when it is told a line."""
    command = [sys.executable, "-c", HOLD, str(storage)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_each_process_takes_what_no_other_runs(tmp_path: Path) -> None:
    with other(tmp_path) as process, SweepLocks(tmp_path, "s-own") as own:
        assert own.take(["t-1", "t-2", "t-3"]) == {"t-3"}
        assert own.holder("t-2") == f"process {process.pid} of sweep s-other"
        assert own.unheld(["t-1", "t-3", "t-4"]) == {"t-3", "t-4"}
        assert running_elsewhere(tmp_path, ["t-1", "t-4"]) == {"t-1"}
        assert tell(process) == "released\n"
        assert own.take(["t-1", "t-2"]) == {"t-1"}
        assert own.holder("t-1") == f"process {os.getpid()} of sweep s-own"
        own.release(["t-1"])
        assert own.unheld(["t-1", "t-2"]) == {"t-1"}


def test_locks_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with other(tmp_path) as process, SweepLocks(tmp_path, "s-own") as own:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert own.take(["t-1", "t-2"]) == {"t-1", "t-2"}


def test_locks_end_with_the_block(tmp_path: Path) -> None:
    with SweepLocks(tmp_path, "s-own") as own:
        own.take(["t-1"])
    assert running_elsewhere(tmp_path, ["t-1"]) == set()


def test_the_last_process_of_a_sweep_knows_that_it_is(tmp_path: Path) -> None:
    with other(tmp_path) as process, SweepLocks(tmp_path, "s-other") as second, SweepLocks(tmp_path, "s-own") as third:
        second.join()
        third.join()
        assert not second.leave()
        assert third.leave()  # of a sweep of its own
        process.kill()
        process.wait()
        second.join()
        assert second.leave()


def test_two_processes_of_a_sweep_have_a_pool_each(tmp_path: Path) -> None:
    with pool_name(tmp_path, "s-1") as one, pool_name(tmp_path, "s-1") as two, pool_name(tmp_path, "s-2") as other:
        assert (one, two, other) == ("evaluation-s-1", "evaluation-s-1-2", "evaluation-s-2")
    with pool_name(tmp_path, "s-1") as again:
        assert again == "evaluation-s-1"


def test_a_file_lock_is_waited_for(tmp_path: Path) -> None:
    entered = threading.Event()

    def enter() -> None:
        with file_lock(tmp_path / "locks" / "one.lock"):
            entered.set()

    with file_lock(tmp_path / "locks" / "one.lock"):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(5)
    assert entered.is_set()
