"""One sweep from two shells at once, and what `rerun` does to a sweep that went wrong. Everything is real."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from dft_sweeps.tracking.links import REUSED_TAG
from dft_sweeps.tracking.reader import Reader, TrialRow
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.running import SPEC, Finished, at, kill_train_worker, run
from tests.end_to_end.test_interrupt import curves
from tests.orchestration.real_trials import saved_step

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PATIENCE_S = 1500


def reader(storage: Path) -> Reader:
    return Reader(f"sqlite:///{storage / 'mlflow.db'}")


def runs_in(storage: Path) -> list[tuple[bool, str]]:
    """Of every run in MLflow: whether it is a sweep's own, and its status."""
    client = reader(storage)._client
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return sorted(("mlflow.parentRunId" not in run.data.tags, run.info.status) for run in found)


@pytest.mark.faults
def test_one_sweep_from_two_shells_at_once_is_run_once(finished_sweep: FinishedSweep, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    with ThreadPoolExecutor(2) as shells:
        asked = [
            shells.submit(run, "run", str(SPEC), "--storage", str(storage), timeout_s=PATIENCE_S) for _ in range(2)
        ]
        ends = [each.result() for each in asked]
    assert [end.code for end in ends] == [0, 0], "\n\n".join(end.text for end in ends)
    assert [end.left for end in ends] == [[], []]
    one, other = sorted(ends, key=lambda end: "starting Ray" in end.text)
    assert "starting Ray" not in one.text
    assert re.search(r"waiting for trials t-\w+, t-\w+, which process \d+ of sweep s-\w+ runs", one.text)
    assert "0 trials finished, 2 reused, 0 failed" in one.text
    assert "2 trials finished, 0 reused, 0 failed" in other.text
    assert runs_in(storage) == [(False, "FINISHED"), (False, "FINISHED"), (True, "FINISHED")]
    assert curves(f"sqlite:///{storage / 'mlflow.db'}") == curves(finished_sweep.tracking_uri)


@dataclass(frozen=True)
class WentWrong:
    """A sweep with a trial whose worker was killed, and what `rerun --failed` printed after that."""

    storage: Path
    sweep_id: str
    before: list[str]
    """Statuses of the sweep and its trials."""
    mended: Finished


def rerun(storage: Path, *arguments: str) -> Finished:
    found = run("rerun", "end-to-end", "--storage", str(storage), *arguments, timeout_s=PATIENCE_S)
    assert found.code == 0, found.text
    return found


@pytest.fixture(scope="module")
def went_wrong(tmp_path_factory: pytest.TempPathFactory) -> WentWrong:
    storage = tmp_path_factory.mktemp("went-wrong")
    failed = run(
        *("run", str(SPEC), "--storage", str(storage)),
        *("--set", "execution.max_failures=0", "--set", "execution.save_every_s=0"),
        disturb=at(lambda: saved_step(storage) >= 2, kill_train_worker),
        timeout_s=PATIENCE_S,
    )
    assert failed.code == 1, failed.text
    sweep = reader(storage).find_sweep("end-to-end")
    before = [sweep.status, *(trial.status for trial in reader(storage).trials(sweep))]
    return WentWrong(storage, sweep.sweep_id, before, rerun(storage, "--failed"))


def trials(storage: Path) -> list[TrialRow]:
    return reader(storage).trials(reader(storage).find_sweep("end-to-end"))


@pytest.mark.timeout(1800)
def test_a_failed_trial_is_taken_up_and_nothing_else_is_run(went_wrong: WentWrong) -> None:
    storage, mended = went_wrong.storage, went_wrong.mended
    assert went_wrong.before == ["FAILED", "FAILED", "FINISHED"]
    assert "1 of 2 trials are asked for" in mended.text
    assert re.search(r"objective=sft: resumed at step \d of 6", mended.text)
    assert "objective=dft: started" not in mended.text
    assert [trial.status for trial in trials(storage)] == ["FINISHED", "FINISHED"]
    nothing = rerun(storage)
    assert "2 of 2 trials are finished already" in nothing.text and "starting Ray" not in nothing.text
    assert (True, "RUNNING") not in runs_in(storage) and (False, "RUNNING") not in runs_in(storage)


@pytest.mark.timeout(1800)
def test_a_cell_is_trained_afresh_and_seeds_are_added(went_wrong: WentWrong) -> None:
    storage = went_wrong.storage
    sft, dft = trials(storage)
    fresh = rerun(storage, "--cell", "train.objective.kind=dft", "--fresh")
    assert "objective=dft: started" in fresh.text and "objective=sft: started" not in fresh.text
    same, anew = trials(storage)
    assert same.run_id == sft.run_id and anew.run_id != dft.run_id
    assert anew.resumed_at is None
    for key in ("train/nll", "eval/average/accuracy"):
        assert reader(storage).curve(anew.run_id, key) == reader(storage).curve(dft.run_id, key)

    seeds = rerun(storage, "--seeds", "2")
    assert "2 of 4 trials are finished already" in seeds.text
    larger = reader(storage).find_sweep("end-to-end")
    assert larger.sweep_id != went_wrong.sweep_id
    assert (larger.status, larger.finished, larger.trials) == ("FINISHED", 4, 4)
    assert {trial.axes["train.seed"] for trial in trials(storage)} == {5, 6}
    tags = reader(storage)._client.get_run(larger.run_id).data.tags
    assert {value for key, value in tags.items() if key.startswith(REUSED_TAG)} == {sft.run_id, anew.run_id}
    assert (True, "RUNNING") not in runs_in(storage) and (False, "RUNNING") not in runs_in(storage)
