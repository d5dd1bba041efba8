"""The files of a trial, under `<storage>/trials/<training_id>/`.

    metrics.jsonl       one row per optimizer step, the trial's own copy of its curves
    checkpoints.json    the checkpoints written so far, with their digests and canaries
    step-000020/        a checkpoint: a model directory
    finished            there once training has ended

A trial that starts again starts from nothing: `fresh` removes what an interrupted attempt left.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.model_files import weights_digest


class TrialFiles:
    def __init__(self, storage: Path, training_id: str) -> None:
        self.directory = storage / "trials" / training_id

    def fresh(self) -> None:
        """An empty directory for a new attempt."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)

    def checkpoint_directory(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def append_rows(self, rows: list[StepRow]) -> None:
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)

    def rows(self) -> list[StepRow]:
        """All rows written; a last line cut off by a crash is left out, for its step is not committed."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().split("\n")[:-1]
        return [StepRow(**json.loads(line)) for line in lines]

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        listed = [*map(asdict, self.checkpoints()), asdict(checkpoint)]
        partial = self.directory / ".checkpoints.json.partial"
        partial.write_text(json.dumps(listed))
        partial.replace(self.directory / "checkpoints.json")

    def checkpoints(self) -> list[Checkpoint]:
        path = self.directory / "checkpoints.json"
        if not path.exists():
            return []
        return [_checkpoint(entry) for entry in json.loads(path.read_text())]

    def finish(self) -> None:
        (self.directory / "finished").touch()

    @property
    def finished(self) -> bool:
        return (self.directory / "finished").exists()


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether the weights are there and are those that were written."""
    try:
        return weights_digest(Path(checkpoint.directory)) == checkpoint.weights_digest
    except SpecError:
        return False


def _checkpoint(entry: dict) -> Checkpoint:
    canary = entry.pop("canary")
    prompts = tuple(map(tuple, canary["prompts"]))
    return Checkpoint(**entry, canary=Canary(prompts, tuple(map(tuple, canary["logprobs"]))))
