"""Sweeps at once that want the same trials: each is run once, nobody is refused, and a dead process is replaced.

The trials are a script; processes, locks and MLflow are real. Two real `run` commands are in tests/end_to_end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dft_sweeps.orchestration import sharing
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.tracking.links import NOTE_TAG, REUSED_TAG
from dft_sweeps.tracking.reader import Reader
from tests.orchestration.file_sweep import SPEC, prepared, write_files
from tests.orchestration.shared_sweep import ScriptedCoordinator, Shell, run_scripted, wait_for

SFT, DFT = "objective=sft", "objective=dft"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    return prepared(write_files(tmp_path_factory.mktemp("files")))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """Another sweep, that shares the trial with DFT."""
    text = SPEC.replace("name: files", "name: others").replace("kind: [sft, dft]", "kind: [dft, focal]")
    return prepared(write_files(tmp_path_factory.mktemp("others")), text)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sharing, "Coordinator", ScriptedCoordinator)
    monkeypatch.setattr(sharing, "POLL_S", 0.1)
    return tmp_path


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """The sweep of `swept` with a scheduler at whose rungs its trials compete."""
    text = SPEC + "scheduler: {kind: asha, rungs: [1], reduction_factor: 2}\n"
    return prepared(write_files(tmp_path_factory.mktemp("halved")), text)


def open_gate(storage: Path) -> None:
    (storage / "gate").touch()


def ran(storage: Path) -> list[str]:
    return (storage / "ran").read_text().split("\n")[:-1]


def statuses(storage: Path) -> list[tuple[bool, str]]:
    """Of every run in MLflow: whether it is a sweep's own, and its status."""
    client = Reader(f"sqlite:///{storage}/mlflow.db")._client
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    return sorted(("mlflow.parentRunId" not in run.data.tags, run.info.status) for run in runs)


def start(storage: Path, directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.orchestration.shared_sweep", str(storage), str(directory)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return line
    raise AssertionError(seen)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_one_sweep_from_two_shells_is_run_once(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    storage, directory = tmp_path / "storage", write_files(tmp_path)
    processes += [start(storage, directory), start(storage, directory)]
    wait_for(lambda: (storage / "ran").exists(), "a trial starts")
    open_gate(storage)
    ends = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert sorted(ran(storage)) == [DFT, SFT]
    assert sorted(end.splitlines()[-1].partition(": ")[2] for end in ends) == [
        "0 finished, 2 reused, 0 failed", "2 finished, 0 reused, 0 failed"
    ]  # fmt: skip
    assert statuses(storage) == [(False, "FINISHED"), (False, "FINISHED"), (True, "FINISHED")]


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced_by_the_one_that_waits(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    storage, directory = tmp_path / "storage", write_files(tmp_path)
    first = start(storage, directory)
    processes.append(first)
    until(first, "started")
    second = start(storage, directory)
    processes.append(second)
    line = until(second, "waiting for trials t-")
    assert f"which process {first.pid} of sweep s-" in line
    assert statuses(storage) == [(False, "RUNNING"), (False, "RUNNING"), (True, "RUNNING")]  # and not killed
    os.kill(first.pid, signal.SIGKILL)
    open_gate(storage)
    assert "2 finished, 0 reused, 0 failed" in second.communicate(timeout=300)[0]
    assert statuses(storage) == [
        *[(False, "FINISHED")] * 2, *[(False, "KILLED")] * 2, (True, "FINISHED")
    ]  # fmt: skip


def test_a_shared_trial_is_waited_for_and_linked_and_the_rest_is_run_meanwhile(
    storage: Path, swept: PreparedSweep, other: PreparedSweep
) -> None:
    first = Shell().run(swept, storage)
    first.says(f"{SFT}: started")
    second = Shell().run(other, storage)
    second.says("objective=focal: started")
    open_gate(storage)
    assert (first.ended().finished, first.ended().reused) == (2, 0)
    assert (second.ended().finished, second.ended().reused) == (1, 1)
    assert sorted(ran(storage)) == [DFT, "objective=focal", SFT]
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    theirs = {trial.name: trial for trial in reader.trials(reader.find_sweep("files"))}[DFT]
    tags = reader._client.get_run(reader.find_sweep("others").run_id).data.tags
    links = {key: value for key, value in tags.items() if key.startswith(REUSED_TAG)}
    assert links == {f"{REUSED_TAG}{theirs.training_id}": theirs.run_id}
    assert f"[{DFT}](#/experiments/" in tags[NOTE_TAG] and f"of {swept.sweep_id}" in tags[NOTE_TAG]
    assert NOTE_TAG not in reader._client.get_run(reader.find_sweep("files").run_id).data.tags


def test_a_trial_that_failed_elsewhere_is_taken_up(
    storage: Path, swept: PreparedSweep, other: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedCoordinator, "failing", [DFT])
    first = Shell().run(swept, storage)
    first.says(f"{SFT}: started")
    second = Shell().run(other, storage, only={trial.training_id for trial in swept.trials})
    second.says("waiting for trial t-")
    open_gate(storage)
    assert first.ended().failed == {DFT: "as scripted"}
    assert second.ended().failed == {DFT: "as scripted"}  # and is not tried for ever
    assert sorted(ran(storage)) == [DFT, DFT, SFT]
    monkeypatch.setattr(ScriptedCoordinator, "failing", [])
    assert run_scripted(swept, storage, lambda topic, line: None).finished == 1
    assert (True, "RUNNING") not in statuses(storage) and (False, "RUNNING") not in statuses(storage)


def test_trials_that_compete_are_run_by_one_process_at_a_time(
    storage: Path, halved: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else verdicts would fall among those that failed in the first, while it trains the others."""
    monkeypatch.setattr(ScriptedCoordinator, "failing", [SFT])
    opened = threading.Event()
    monkeypatch.setattr(ScriptedCoordinator, "wait", lambda self, name: name == SFT or opened.wait(300))
    first = Shell().run(halved, storage)
    first.says(f"{DFT}: started")  # the one with SFT has failed and is free
    second = Shell().run(halved, storage)
    second.says(f"waiting for trial {halved.trials[1].training_id}, which")
    time.sleep(0.5)  # some looks at the locks
    assert ran(storage) == [SFT, DFT]
    opened.set()
    assert (first.ended().finished, first.ended().failed) == (1, {SFT: "as scripted"})
    assert (second.ended().reused, second.ended().failed) == (1, {SFT: "as scripted"})
    assert ran(storage) == [SFT, DFT, SFT]


def test_a_sweep_whose_trials_compete_waits_for_one_that_another_sweep_trains(
    storage: Path, halved: PreparedSweep, other: PreparedSweep
) -> None:
    first = Shell().run(other, storage)
    first.says(f"{DFT}: started")
    second = Shell().run(halved, storage)
    second.says(f"waiting for trial {halved.trials[1].training_id}, which")
    assert ran(storage) == [DFT]
    open_gate(storage)
    assert first.ended().finished == 2
    assert (second.ended().finished, second.ended().reused) == (1, 1)


def test_part_of_a_sweep_leaves_it_unfinished(storage: Path, swept: PreparedSweep) -> None:
    open_gate(storage)
    one = swept.trials[1].training_id
    assert run_scripted(swept, storage, lambda topic, line: None, {one}).finished == 1
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    sweep = reader.find_sweep("files")
    assert (sweep.sweep_id, sweep.status) == (swept.sweep_id, "KILLED")
    assert [trial.status for trial in reader.trials(sweep)] == ["WAITING", "FINISHED"]
    assert run_scripted(swept, storage, lambda topic, line: None).reused == 1
    assert reader.find_sweep("files").status == "FINISHED"


def test_a_fresh_trial_begins_from_nothing_and_its_newest_run_is_shown(storage: Path, swept: PreparedSweep) -> None:
    open_gate(storage)
    run_scripted(swept, storage, lambda topic, line: None)
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    before = {trial.name: trial.run_id for trial in reader.trials(reader.find_sweep("files"))}
    files = TrialFiles(storage, swept.trials[0].training_id)
    files.fresh({})
    outcome = run_scripted(swept, storage, lambda topic, line: None, {swept.trials[0].training_id}, fresh=True)
    assert (outcome.finished, outcome.reused) == (1, 0)
    assert not files.directory.exists()
    after = {trial.name: trial.run_id for trial in reader.trials(reader.find_sweep("files"))}
    assert after[SFT] != before[SFT] and after[DFT] == before[DFT]
    assert reader._client.get_run(before[SFT]).info.status == "FINISHED"


def test_two_that_want_it_fresh_at_once_train_it_once(storage: Path, swept: PreparedSweep) -> None:
    open_gate(storage)
    run_scripted(swept, storage, lambda topic, line: None)
    (storage / "gate").unlink()
    shells = [Shell().run(swept, storage, fresh=True)]
    shells[0].says(": started")
    shells.append(Shell().run(swept, storage, fresh=True))
    shells[1].says("waiting for trials t-")
    open_gate(storage)
    assert [(shell.ended().finished, shell.ended().reused) for shell in shells] == [(2, 0), (0, 2)]
    assert sorted(ran(storage)) == [DFT, DFT, SFT, SFT]


def test_what_cannot_start_leaves_no_trace(
    storage: Path, swept: PreparedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no engine starts")

    monkeypatch.setattr("tests.orchestration.shared_sweep.services", broken)
    with pytest.raises(RuntimeError, match="no engine starts"):
        run_scripted(swept, storage, lambda topic, line: None)
    assert statuses(storage) == []
