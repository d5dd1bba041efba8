"""The files of a trial, under `<storage>/trials/<training_id>/`.

    metrics.jsonl       one row per optimizer step, the trial's own copy of its curves
    checkpoints.json    the checkpoints written so far, with their digests and canaries
    step-000020/        a checkpoint: a model directory
    resume/             the last whole state from which training can go on
    histogram.json      how the histograms in its rows were taken
    provenance.json     under what conditions it was trained
    non_finite.json     the batch whose loss or gradient was not finite
    finished            there once training has ended; resume/ is gone then

Rows are on the disk before a state of their step is, so a state is never ahead of its rows. An attempt at a trial
either takes up the last state (`keep`), or starts from nothing (`fresh`). Rows and checkpoints carry a checksum each:
what was changed since it was written raises `DamagedFile` and is never used.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.orchestration.mailbox import Checkpoint, StepRow
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.model_files import weights_digest

_SEAL = "crc32"


class DamagedFile(RuntimeError):
    """A trial's file that is not as it was written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is damaged: {problem}")


class TrialFiles:
    def __init__(self, storage: Path, training_id: str) -> None:
        self.directory = storage / "trials" / training_id
        self.resume_directory = self.directory / "resume"
        self.non_finite = self.directory / "non_finite.json"
        self.attempt_lock = storage / "trials" / f"{training_id}.attempt.lock"
        """Held by the process that trains, for as long as it lives."""

    def fresh(self, histogram: Mapping[str, Any]) -> None:
        """An empty directory for an attempt that starts from nothing, and takes its histograms so."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._write("histogram.json", json.dumps(dict(histogram)))

    def keep(self, step: int) -> None:
        """Removes whatever came after `step`, for an attempt that goes on from there."""
        later = [checkpoint for checkpoint in self.checkpoints() if checkpoint.step > step]
        self._write("metrics.jsonl", _lines([row for row in self.rows() if row.step <= step]))
        self._write_checkpoints([checkpoint for checkpoint in self.checkpoints() if checkpoint.step <= step])
        for checkpoint in later:
            shutil.rmtree(self.checkpoint_directory(checkpoint.step), ignore_errors=True)
        for unfinished in (*self.directory.glob(".step-*.partial"), *self.resume_directory.glob(".step-*.partial")):
            shutil.rmtree(unfinished, ignore_errors=True)
        self.non_finite.unlink(missing_ok=True)
        (self.directory / "finished").unlink(missing_ok=True)

    def checkpoint_directory(self, step: int) -> Path:
        return self.directory / f"step-{step:06d}"

    def append_rows(self, rows: Sequence[StepRow]) -> None:
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[StepRow]:
        """All rows written; a last line cut off by a crash is left out, for its step is not committed.

        Raises:
            DamagedFile: another line is not as it was written.
        """
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        return [StepRow(**_unsealed(path, f"line {n}", _parsed(path, line))) for n, line in enumerate(lines, 1)]

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._write_checkpoints([*self.checkpoints(), checkpoint])

    def checkpoints(self) -> list[Checkpoint]:
        """Those announced so far. Raises DamagedFile."""
        path = self.directory / "checkpoints.json"
        listed = _parsed(path, path.read_bytes()) if path.exists() else []
        return [_checkpoint(_unsealed(path, f"entry {n}", entry)) for n, entry in enumerate(listed, 1)]

    def histogram(self) -> dict[str, Any] | None:
        """How histograms were taken; None where no attempt came so far. Raises DamagedFile."""
        path = self.directory / "histogram.json"
        taken: dict[str, Any] | None = _parsed(path, path.read_bytes()) if path.exists() else None
        return taken

    def write_provenance(self, tags: Mapping[str, str]) -> None:
        self._write("provenance.json", json.dumps(dict(tags), indent=1))

    def provenance(self) -> dict[str, str]:
        """As tags; none where no attempt came so far. Raises DamagedFile."""
        path = self.directory / "provenance.json"
        tags: dict[str, str] = _parsed(path, path.read_bytes()) if path.exists() else {}
        return tags

    def write_non_finite(self, record: Mapping[str, Any]) -> None:
        self._write(self.non_finite.name, json.dumps(dict(record), indent=1))

    def finish(self) -> None:
        (self.directory / "finished").touch()
        shutil.rmtree(self.resume_directory, ignore_errors=True)

    @property
    def finished(self) -> bool:
        return (self.directory / "finished").exists()

    def _write_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._write("checkpoints.json", json.dumps([_sealed(asdict(checkpoint)) for checkpoint in checkpoints]))

    def _write(self, name: str, text: str) -> None:
        """Replaces a file by a whole one that is on the disk."""
        partial = self.directory / f".{name}.partial"
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.directory / name)


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether the weights are there and are those that were written."""
    try:
        return weights_digest(Path(checkpoint.directory)) == checkpoint.weights_digest
    except SpecError:
        return False


def _lines(rows: Sequence[StepRow]) -> str:
    return "".join(json.dumps(_sealed(asdict(row))) + "\n" for row in rows)


def _sealed(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, _SEAL: _seal(entry)}


def _unsealed(path: Path, where: str, entry: Any) -> dict[str, Any]:
    content = {name: value for name, value in entry.items() if name != _SEAL} if isinstance(entry, dict) else {}
    if not content or _seal(content) != entry.get(_SEAL):
        raise DamagedFile(path, f"{where} is not as it was written")
    return content


def _seal(entry: Mapping[str, Any]) -> str:
    """Against accidents only; JSON gives back every number as it was."""
    return f"{zlib.crc32(json.dumps(entry).encode()):08x}"


def _parsed(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedFile(path, str(error)) from error


def _checkpoint(entry: dict[str, Any]) -> Checkpoint:
    canary = entry.pop("canary")
    prompts = tuple(map(tuple, canary["prompts"]))
    return Checkpoint(**entry, canary=Canary(prompts, tuple(map(tuple, canary["logprobs"]))))
