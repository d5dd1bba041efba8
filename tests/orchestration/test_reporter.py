"""One process trains a trial at a time, also where a killed coordinator's worker is not dead yet."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dft_sweeps.orchestration import reporter as reporting
from dft_sweeps.orchestration.reporter import Reporter
from dft_sweeps.orchestration.trial_files import TrialFiles

HOLD = """
import sys
from pathlib import Path
from dft_sweeps.orchestration.locks import try_lock
with Path(sys.argv[1]).open("a") as file:
    print(try_lock(file), flush=True)
    sys.stdin.read()
"""


class Noting(Reporter):
    """Its mailbox is a list."""

    def _put(self, event: object) -> None:
        self.__dict__.setdefault("events", []).append(event)


def test_an_attempt_waits_until_the_process_of_the_one_before_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.attempt_lock.parent.mkdir()
    reporter = Noting("t-1", files, None)
    entered = threading.Event()

    def enter() -> None:
        with reporter.attempt():
            entered.set()

    command = [sys.executable, "-c", HOLD, str(files.attempt_lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as earlier:
        assert earlier.stdout.readline() == "True\n"
        monkeypatch.setattr(reporting, "EARLIER_ATTEMPT_S", 0.1)
        with pytest.raises(RuntimeError, match=f"another process trains this trial: it holds {files.attempt_lock}"):
            enter()
        monkeypatch.setattr(reporting, "EARLIER_ATTEMPT_S", 60)
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(1)
        earlier.kill()
        assert entered.wait(20)
    waiting.join()
    assert [event.text for event in reporter.events] == ["waits for the processes of an earlier attempt to end"] * 2
