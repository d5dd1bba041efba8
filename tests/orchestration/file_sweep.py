"""A sweep on local files, for tests that change one thing in the spec or in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dft_sweeps.orchestration.prepare import PreparedSweep, prepare
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_sweep

SPEC = """\
name: files
trial:
  model: {path: embedded}
  data:
    source: {kind: file, path: rows.jsonl}
    max_length: 64
  train:
    objective: {kind: sft}
    learning_rate: 1e-3
    batch_size: 4
    steps: 6
  evaluation:
    benchmarks:
      - {name: gsm8k, path: questions.jsonl}
    every: 3
    steps: [1]
    samplings:
      sampled: {max_new_tokens: 16}
axes:
  train.objective.kind: [sft, dft]
pool:
  max_model_len: 400
"""
ROWS = [{"prompt": f"{number}+1=", "completion": str(number + 1)} for number in range(10)]
QUESTIONS = [{"question": f"What is {number}+1?", "answer": f"Count on.\n#### {number + 1}"} for number in range(5)]


def write_rows(path: Path, rows: list) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_files(directory: Path) -> Path:
    """Writes the files that `SPEC` names."""
    write_rows(directory / "rows.jsonl", ROWS)
    write_rows(directory / "questions.jsonl", QUESTIONS)
    return directory


def prepared(directory: Path, text: str = SPEC, *overrides: str) -> PreparedSweep:
    path = directory / "files.yaml"
    path.write_text(text, encoding="utf-8")
    return prepare(load_sweep(path, overrides))


def refusal(directory: Path, old: str = "", new: str = "") -> str:
    """The one message that preparing the edited spec ends with, after the directory's name."""
    assert old in SPEC
    with pytest.raises(SpecError) as caught:
        prepared(directory, SPEC.replace(old, new, 1))
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{directory}/")
