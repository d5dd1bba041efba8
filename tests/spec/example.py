"""A spec that uses every part of the language, for tests that change one thing in it."""

from __future__ import annotations

from pathlib import Path

SPEC = """\
name: study
description: a test

trial:
  model: {path: embedded}
  data:
    source: {kind: arithmetic, samples: 320, wrong_steps: 0.1, seed: 11}
    max_length: 160
  train:
    objective: {kind: sft}
    learning_rate: 1e-3
    batch_size: 32
    steps: 60
    optimizer: {beta1: 0.9}
    schedule: {kind: cosine}
  evaluation:
    benchmarks:
      - arithmetic_1
      - {name: arithmetic_2, limit: 5}
    every: 20
    steps: [5]
    samplings:
      sampled: {samples: 4, temperature: 1.0, max_new_tokens: 96}

axes:
  train.objective.kind: [sft, dft]
  train.learning_rate: [3e-4, 1e-3]

variants:
  - name: noisy
  - name: clean
    set: {data.source.wrong_steps: 0.0}

execution:
  workers: 1

pool:
  max_model_len: 256
"""


def edited(old: str, new: str) -> str:
    """`SPEC` with the first `old` replaced; `old` must be in it."""
    assert old in SPEC, old
    return SPEC.replace(old, new, 1)


def section(name: str) -> str:
    """The lines of a section of `SPEC`, from its name to the blank line that ends it, e.g. ``axes``."""
    start = SPEC.index(f"\n{name}:\n") + 1
    return SPEC[start : SPEC.find("\n\n", start) + 1 or None]


def write(directory: Path, text: str = SPEC) -> Path:
    path = directory / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path
