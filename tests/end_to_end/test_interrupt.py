"""Ctrl-C in the middle of a sweep: nothing is left running, and the same command takes the sweep up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.tracking.reader import Reader
from tests.end_to_end.conftest import FinishedSweep
from tests.end_to_end.running import SPEC, run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def curves(tracking_uri: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Every curve of the sweep by trial and metric, but for those that tell the time."""
    reader = Reader(tracking_uri)
    return {
        (trial.training_id, key): reader.curve(trial.run_id, key)
        for trial in reader.trials(reader.find_sweep("end-to-end"))
        for key in trial.metrics
        if key != "train/tokens_per_second"
    }


def test_an_interrupted_sweep_is_taken_up_again_and_ends_the_same(
    finished_sweep: FinishedSweep, tmp_path: Path
) -> None:
    storage = tmp_path / "storage"
    uri = f"sqlite:///{storage / 'mlflow.db'}"

    interrupted = run(
        "run", str(SPEC), "--storage", str(storage), interrupt_when=lambda line: "objective=dft: started" in line
    )
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
    assert "objective=dft: step 6/6" in taken_up.text
    assert curves(uri) == curves(finished_sweep.tracking_uri)
    assert {row.status for row in reader.trials(reader.find_sweep("end-to-end"))} == {"FINISHED"}


def test_ctrl_c_while_services_start_leaves_nothing(tmp_path: Path) -> None:
    interrupted = run(
        "run", str(SPEC), "--storage", str(tmp_path / "storage"), interrupt_when=lambda line: "0 of 1 ready" in line
    )
    assert interrupted.code == 130, interrupted.text
    assert interrupted.left == []
