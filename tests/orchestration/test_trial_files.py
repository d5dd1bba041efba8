"""A trial's files: what an interrupted attempt left is read as far as it was committed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.trial_files import DamagedFile, TrialFiles

HISTOGRAM = {"every": None, "samples": 32, "edges": [0.0, 0.5, 1.0]}


def checkpoint(step: int) -> Checkpoint:
    canary = Canary(((1, 2, 3), (4, 5)), ((-0.1, -1e-7), (-2.000000000000001,)))
    return Checkpoint(step, f"/somewhere/step-{step}", "d" * 64, canary)


def test_rows_and_checkpoints_come_back_as_they_were(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    rows = [StepRow(step, 1_700_000_000_000 + step, {"train/nll": 0.1 * step}) for step in (1, 2, 3)]
    files.append_rows(rows[:2])
    files.append_rows(rows[2:])
    files.add_checkpoint(checkpoint(0))
    files.add_checkpoint(checkpoint(3))
    again = TrialFiles(tmp_path, "t-1")
    assert again.rows() == rows
    assert again.checkpoints() == [checkpoint(0), checkpoint(3)]
    assert not again.finished


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    files.append_rows([StepRow(1, 1, {"train/nll": 0.5}), StepRow(2, 2, {"train/nll": 0.25})])
    path = files.directory / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert [row.step for row in files.rows()] == [1]


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints.json"])
def test_no_change_of_any_digit_passes(name: str, tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    files.append_rows([StepRow(1, 1_700_000_000_001, {"train/nll": 0.1}), StepRow(2, 2, {"train/nll": float("nan")})])
    files.add_checkpoint(checkpoint(0))
    read: Callable[[], object] = {"metrics.jsonl": files.rows, "checkpoints.json": files.checkpoints}[name]
    path = files.directory / name
    whole = path.read_text()
    assert read()
    for place, character in enumerate(whole):
        if character.isdigit():
            path.write_text(whole[:place] + str((int(character) + 1) % 10) + whole[place + 1 :])
            with pytest.raises(DamagedFile, match=str(path)):
                read()


def test_what_came_after_the_step_that_is_taken_up_is_gone(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    rows = [StepRow(step, step, {"train/nll": 1.0}) for step in range(6)]
    files.append_rows(rows)
    with (files.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "timest')  # cut off by a crash
    for step in (0, 3, 5):
        files.add_checkpoint(checkpoint(step))
        files.checkpoint_directory(step).mkdir()
    for unfinished in (".step-000006.7.partial", "resume/.step-00000005.partial", "resume/step-00000004"):
        (files.directory / unfinished).mkdir(parents=True)
    files.write_non_finite({"step": 6})
    files.write_provenance({"dft.threads": "1"})
    files.keep(4)
    assert files.rows() == rows[:5]
    assert files.checkpoints() == [checkpoint(0), checkpoint(3)]
    files.append_rows([StepRow(5, 5, {"train/nll": 2.0})])
    assert files.rows()[-1] == StepRow(5, 5, {"train/nll": 2.0})
    assert sorted(str(path.relative_to(files.directory)) for path in files.directory.rglob("*")) == [
        "checkpoints.json", "histogram.json", "metrics.jsonl", "provenance.json", "resume",
        "resume/step-00000004", "step-000000", "step-000003",
    ]  # fmt: skip


def test_a_finished_trial_keeps_no_state(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    (files.resume_directory / "step-00000004").mkdir(parents=True)
    files.finish()
    assert (files.finished, files.resume_directory.exists()) == (True, False)
    files.keep(0)
    assert not files.finished


def test_provenance_histogram_and_a_batch_that_was_not_finite_come_back(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    assert (files.provenance(), files.histogram()) == ({}, None)
    files.fresh(HISTOGRAM)
    files.write_provenance({"dft.threads": "1"})
    files.write_non_finite({"step": 3, "samples": [4, 5]})
    assert TrialFiles(tmp_path, "t-1").provenance() == {"dft.threads": "1"}
    assert files.histogram() == HISTOGRAM
    assert json.loads(files.non_finite.read_text()) == {"step": 3, "samples": [4, 5]}


def test_a_new_attempt_finds_nothing_of_the_old_one(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh(HISTOGRAM)
    files.add_checkpoint(checkpoint(0))
    files.finish()
    files.checkpoint_directory(3).mkdir()
    files.fresh(HISTOGRAM)
    assert (files.finished, files.checkpoints(), files.rows()) == (False, [], [])
    assert list(files.directory.iterdir()) == [files.directory / "histogram.json"]
