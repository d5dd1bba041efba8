"""What earlier attempts left of a trial, taken up from its files without training anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.orchestration.prepare import PreparedTrial
from dft_sweeps.orchestration.resume import lost_rows
from dft_sweeps.orchestration.trial_files import DamagedFile, TrialFiles, is_whole


@dataclass(frozen=True)
class Left:
    rows: list[StepRow]
    checkpoints: dict[int, Checkpoint]
    """Those due, by rising step."""
    provenance: dict[str, str]


def left_by_earlier_attempts(
    files: TrialFiles, trial: PreparedTrial, base_directory: str, until: int | None = None
) -> Left | None:
    """What stands for training to the step `until`, where the trial was parked, or to its end; None if it must train.

    Args:
        base_directory: where the base model is now.
    """
    last = trial.facts.steps if until is None else until
    try:
        rows, taken, tags = files.rows(), files.histogram(), files.provenance()
        checkpoints = checkpoints_of(files, base_directory)
    except DamagedFile:  # which the attempt will say
        return None
    due = {step for step in trial.evaluated_steps if step <= last}
    wanted = trial.trial.spec.evaluation.histogram.model_dump(mode="json")
    if taken != wanted or not due <= checkpoints.keys() or (until is None and not files.finished):
        return None
    if lost_rows(rows, last) or not all(is_whole(checkpoints[step]) for step in due):
        return None
    return Left([row for row in rows if row.step <= last], {step: checkpoints[step] for step in sorted(due)}, tags)


def checkpoints_of(files: TrialFiles, base_directory: str) -> dict[int, Checkpoint]:
    """By step. The base model is where it is now, wherever it was when it was listed. Raises DamagedFile."""
    return {
        checkpoint.step: checkpoint if checkpoint.step else replace(checkpoint, directory=base_directory)
        for checkpoint in files.checkpoints()
    }
