"""Sweeps that are disturbed: nothing is left running, and the same command takes them up again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.disturbing import DRAWS, database, dice, taken_up
from tests.end_to_end.running import SPEC, at, kill_hard, kill_train_worker, nothing, run
from tests.orchestration.real_trials import TIMES_AND_MEMORY, saved_step

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2700)]
LONGER = ("--set", "trial.train.steps=40", "--set", "trial.evaluation.every=20", "--set", "execution.save_every_s=0")


def curves(tracking_uri: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Every curve of the sweep by trial and metric, but those that no computation determines."""
    reader = Reader(tracking_uri)
    return {
        (trial.training_id, key): reader.curve(trial.run_id, key)
        for trial in reader.trials(reader.find_sweep("end-to-end"))
        for key in trial.metrics
        if key not in TIMES_AND_MEMORY
    }


def test_an_interrupted_sweep_is_taken_up_again_and_ends_the_same(
    finished_sweep: FinishedSweep, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    uri = f"sqlite:///{storage / 'mlflow.db'}"

    interrupted = run("run", str(SPEC), "--storage", str(storage), at_line="objective=dft: started")
    assert interrupted.code == 130, interrupted.text
    assert interrupted.lines[-1] == "interrupted"
    assert "Traceback" not in interrupted.text
    assert interrupted.left == []
    reader = Reader(uri)
    sweep = reader.find_sweep("end-to-end")
    first, second = reader.trials(sweep)
    assert sweep.status == "KILLED"
    assert second.status == "KILLED"
    assert first.status in {"FINISHED", "KILLED"}  # trained, but perhaps its last evaluation was under way

    taken_up = run("run", str(SPEC), "--storage", str(storage))
    assert taken_up.code == 0, taken_up.text
    assert "objective=sft: started" not in taken_up.text
    assert curves(uri) == curves(finished_sweep.tracking_uri)
    assert {row.status for row in reader.trials(reader.find_sweep("end-to-end"))} == {"FINISHED"}


def test_ctrl_c_while_services_start_leaves_nothing(tmp_path: Path) -> None:
    interrupted = run("run", str(SPEC), "--storage", str(tmp_path / "storage"), at_line="0 of 1 ready")
    assert interrupted.code == 130, interrupted.text
    assert interrupted.left == []


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the longer sweep's curves are, which was not disturbed."""
    storage = tmp_path_factory.mktemp("longer")
    finished = run("run", str(SPEC), *LONGER, "--storage", str(storage))
    assert finished.code == 0, finished.text
    return database(storage)


@pytest.mark.faults
@pytest.mark.parametrize("draw", DRAWS)
def test_a_sweep_that_was_killed_hard_is_resumed_and_ends_the_same(longer: str, tmp_path: Path, draw: int) -> None:
    """Of 40 steps, for its workers train on until they notice: 9 were done by then, and ended a trial of 12."""
    storage, step = tmp_path / "killed", dice("killed hard", draw).randint(2, 8)
    arguments = ("run", str(SPEC), *LONGER, "--storage", str(storage))
    killed = run(*arguments, disturb=at(lambda: saved_step(storage) >= step, kill_hard, nothing))
    assert killed.code == -9, killed.text
    assert killed.left == []
    reader = Reader(database(storage))
    assert [trial.status for trial in reader.trials(reader.find_sweep("end-to-end"))] == ["RUNNING", "RUNNING"]
    reached = saved_step(storage)
    assert reached >= step

    resumed = run(*arguments)
    assert resumed.code == 0, resumed.text
    assert f"objective=sft: resumed at step {reached} of 40" in resumed.text
    first, second = reader.trials(reader.find_sweep("end-to-end"))
    assert (first.resumed_at, second.resumed_at) == (reached, None)
    assert {first.status, second.status} == {"FINISHED"}
    assert (first.mixed_provenance, second.mixed_provenance) == (None, None)
    assert curves(database(storage)) == curves(longer)
    print(f"step {reached}: {taken_up(resumed)}")


@pytest.mark.faults
def test_a_killed_worker_fails_its_trial_alone_where_it_may_not_be_taken_up(tmp_path: Path) -> None:
    arguments = ("run", str(SPEC), "--storage", str(tmp_path), *LONGER, "--set", "execution.max_failures=0")
    disturbed = run(*arguments, disturb=at(lambda: saved_step(tmp_path) >= 3, kill_train_worker))
    assert disturbed.code == 1, disturbed.text
    assert re.search("objective=sft: FAILED: .*(died|unexpectedly|dead)", disturbed.text)
    assert "1 trials finished, 0 reused, 1 failed" in disturbed.text
    assert "Traceback" not in disturbed.text
    trace = re.search("objective=sft: its driver failed; (.*) has the trace", disturbed.text)
    assert trace is not None and "drive_trial" in Path(trace[1]).read_text()
    assert disturbed.left == []
    reader = Reader(f"sqlite:///{tmp_path / 'mlflow.db'}")
    sweep = reader.find_sweep("end-to-end")
    assert (sweep.status, [trial.status for trial in reader.trials(sweep)]) == ("FAILED", ["FAILED", "FINISHED"])

    mended = run(*arguments)
    assert mended.code == 0, mended.text
    assert "1 of 2 trials are finished already" in mended.text
    assert re.search(r"objective=sft: resumed at step \d+ of 40", mended.text)
    assert [trial.status for trial in reader.trials(reader.find_sweep("end-to-end"))] == ["FINISHED", "FINISHED"]
    first = reader.trials(reader.find_sweep("end-to-end"))[0]
    assert [step for step, _ in reader.curve(first.run_id, "train/nll")] == list(range(1, 41))
