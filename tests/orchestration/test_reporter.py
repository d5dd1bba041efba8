"""What a trial tells is written and sent beside training, in order; one process trains a trial at a time, also where a
killed coordinator's worker is not dead yet."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration import reporter as reporting
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow, StepRows
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


class Slow(Noting):
    """Its mailbox takes nothing until it is let go."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.let_go = threading.Event()

    def _put(self, event: object) -> None:
        assert self.let_go.wait(20)
        super()._put(event)


def begun(tmp_path: Path) -> TrialFiles:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh({})
    return files


def test_training_waits_for_the_mailbox_in_flush_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "SEND_EVERY_S", 0.0)
    reporter = Slow("t-1", begun(tmp_path), None)
    for step in range(1, 6):
        reporter.step(step, {"train/nll": 1 / step})
    reporter.checkpoint(Checkpoint(5, "somewhere", "digest", Canary(prompts=((1, 2),), logprobs=((0.5,),))))
    reporter.step(6, {"train/nll": 0.1})
    assert "events" not in reporter.__dict__
    reporter.let_go.set()
    reporter.flush()
    kinds = [type(event).__name__ for event in reporter.events]
    rows = [row.step for event in reporter.events if isinstance(event, StepRows) for row in event.rows]
    before = [
        row.step for event in reporter.events[: kinds.index("CheckpointWritten")] for row in getattr(event, "rows", ())
    ]
    assert rows == [1, 2, 3, 4, 5, 6] == [row.step for row in begun_rows(tmp_path)]
    assert before[:5] == [1, 2, 3, 4, 5]


def begun_rows(tmp_path: Path) -> list[StepRow]:
    return TrialFiles(tmp_path, "t-1").rows()


def test_after_a_failure_nothing_is_written_and_every_call_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "SEND_EVERY_S", 0.0)
    reporter = Noting("t-1", begun(tmp_path), None)
    reporter.step(1, {"train/nll": 1.0})
    reporter.flush()

    def fails(event: object) -> None:
        raise ConnectionError("the mailbox is gone")

    monkeypatch.setattr(reporter, "_put", fails)
    reporter.step(2, {"train/nll": 0.5})
    with pytest.raises(ConnectionError, match="the mailbox is gone"):
        reporter.flush()
    for call in (lambda: reporter.step(3, {}), lambda: reporter.note("too late"), reporter.finish):
        with pytest.raises(ConnectionError):
            call()
    assert [row.step for row in begun_rows(tmp_path)] == [1, 2]
    assert not TrialFiles(tmp_path, "t-1").finished
