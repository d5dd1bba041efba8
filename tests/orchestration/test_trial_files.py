"""A trial's files: what an interrupted attempt left is read as far as it was committed."""

from __future__ import annotations

from pathlib import Path

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.trial_files import TrialFiles


def checkpoint(step: int) -> Checkpoint:
    canary = Canary(((1, 2, 3), (4, 5)), ((-0.1, -1e-7), (-2.000000000000001,)))
    return Checkpoint(step, f"/somewhere/step-{step}", "d" * 64, canary)


def test_rows_and_checkpoints_come_back_as_they_were(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh()
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
    files.fresh()
    files.append_rows([StepRow(1, 1, {"train/nll": 0.5}), StepRow(2, 2, {"train/nll": 0.25})])
    path = files.directory / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    assert [row.step for row in files.rows()] == [1]


def test_a_new_attempt_finds_nothing_of_the_old_one(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path, "t-1")
    files.fresh()
    files.add_checkpoint(checkpoint(0))
    files.finish()
    files.checkpoint_directory(3).mkdir()
    files.fresh()
    assert (files.finished, files.checkpoints(), files.rows()) == (False, [], [])
    assert list(files.directory.iterdir()) == []
