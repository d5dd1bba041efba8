"""The real command with a scheduler, killed hard between a rung and its verdict, and run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.running import SPEC, Finished, at, kill_hard, nothing, run
from tests.orchestration.real_trials import TIMES_AND_MEMORY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]
RUNG = 3
HALVING = (
    *("--set", "axes={train.learning_rate: [1e-4, 3e-4, 1e-3]}", "--set", "trial.train.steps=9"),
    *("--set", f"scheduler={{kind: asha, rungs: [{RUNG}], reduction_factor: 3}}"),
)  # fmt: skip
"""One of three goes on, once all three are measured: whatever comes between, the same one."""


def run_halving(storage: Path, **disturbed: object) -> Finished:
    return run("run", str(SPEC), *HALVING, "--storage", str(storage), **disturbed)  # type: ignore[arg-type]


def points(storage: Path) -> dict[str, tuple[str, int | None, dict[str, list[tuple[int, float]]]]]:
    """Of every trial its status, where it was stopped, and all its curves but those that no computation determines."""
    reader = Reader(f"sqlite:///{storage}/mlflow.db")
    [sweep] = reader.sweeps()
    assert sweep.status == "FINISHED"
    return {
        row.training_id: (
            row.status,
            row.stopped_at,
            {key: reader.curve(row.run_id, key) for key in row.metrics if row.run_id and key not in TIMES_AND_MEMORY},
        )
        for row in reader.trials(sweep)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("whole") / "storage"
    finished = run_halving(storage)
    assert finished.code == 0, finished.text
    assert sorted(str(stopped) for _, stopped, _ in points(storage).values()) == ["3", "3", "None"]
    return storage


def test_status_and_report_show_who_was_stopped(whole: Path) -> None:
    uri = f"sqlite:///{whole}/mlflow.db"
    told = run("status", "end-to-end", "--tracking-uri", uri, "--json")
    trials = json.loads(told.text)["trials"]
    assert sorted(str(trial["stopped_at"]) for trial in trials) == ["3", "3", "None"]
    report = run("report", "end-to-end", "--tracking-uri", uri, "--storage", str(whole))
    assert "Stopped by the scheduler before their last step: at step 3" in report.text.replace("\n", " ")
    assert "was decided on the same questions" in report.text.replace("\n", " ")


@pytest.mark.parametrize("stage", ["parked", "measured", "promoted"])
def test_a_sweep_killed_between_rung_and_verdict_comes_to_the_same_verdicts(
    whole: Path, tmp_path: Path, stage: str
) -> None:
    storage = tmp_path / "storage"

    def parked() -> bool:
        return len(list(storage.glob(f"trials/*/resume/step-{RUNG:08d}"))) >= 2

    disturbed = {
        "parked": {"disturb": at(parked, kill_hard, nothing)},
        "measured": {"at_line": "learning_rate=3e-4: step 3  sampled", "do": kill_hard},
        "promoted": {"at_line": "resumed at step 3 of 9", "do": kill_hard},
    }[stage]
    killed = run_halving(storage, **disturbed)
    assert killed.code == -9, killed.text
    assert killed.left == []
    again = run_halving(storage)
    assert again.code == 0, again.text
    assert points(storage) == points(whole)
