"""Whatever a spec names is read before anything starts; what is known then decides identities and the plan."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dft_sweeps.spec.identity import ContentDigests, digest, training_id
from dft_sweeps.training.model_files import EMBEDDED
from tests.orchestration.file_sweep import ROWS, SPEC, prepared, write_files, write_rows


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_files(tmp_path)


def test_what_is_known_of_a_sweep(directory: Path) -> None:
    sweep = prepared(directory)
    assert list(sweep.benchmarks) == ["gsm8k"]
    first, second = sweep.trials
    facts = first.facts
    assert (facts.steps, facts.samples, facts.overlong, facts.questions) == (6, 10, 0, 5)
    assert facts.tokens_per_sample == sum(len(sample.ids) for sample in first.data.samples) / 10
    assert first.evaluated_steps == (0, 1, 3, 6)
    assert (first.data is second.data, first.data_digest == second.data_digest) == (True, True)
    assert first.training_id != second.training_id
    content = digest([[row["prompt"], row["completion"]] for row in ROWS])
    digests = ContentDigests(sweep.model.digest, content, sweep.template_digest)
    assert first.training_id == training_id(first.trial.spec, digests)


def test_a_moved_or_renamed_file_is_the_same_trial(directory: Path) -> None:
    ids = [trial.training_id for trial in prepared(directory).trials]
    (directory / "rows.jsonl").rename(directory / "moved.json")
    moved = prepared(directory, SPEC.replace("rows.jsonl", "moved.json").replace("name: files", "name: other"))
    assert [trial.training_id for trial in moved.trials] == ids
    write_rows(directory / "moved.json", ROWS[::-1])
    assert prepared(directory, SPEC.replace("rows.jsonl", "moved.json")).trials[0].training_id not in ids


def test_a_copied_model_is_the_same_trial(directory: Path) -> None:
    shutil.copytree(EMBEDDED, directory / "policy")
    ours, copied = prepared(directory), prepared(directory, SPEC.replace("embedded", "policy"))
    assert copied.trials[0].training_id == ours.trials[0].training_id
    template = directory / "policy" / "tokenizer_config.json"
    template.write_text(template.read_text(encoding="utf-8").replace("assistant", "helper"), encoding="utf-8")
    assert prepared(directory, SPEC.replace("embedded", "policy")).trials[0].training_id != ours.trials[0].training_id


def test_overlong_samples_are_counted_when_they_are_dropped(directory: Path) -> None:
    write_rows(directory / "rows.jsonl", [*ROWS, {"prompt": "1+1=", "completion": "2" * 99}])
    sweep = prepared(directory, SPEC.replace("max_length: 64", "max_length: 64\n    overflow: drop"))
    assert (sweep.trials[0].facts.overlong, sweep.trials[0].facts.samples) == (1, 10)


def test_the_sweep_id_is_of_name_trials_and_measurements(directory: Path) -> None:
    ids = {
        prepared(directory).sweep_id,
        prepared(directory, SPEC, "name=other").sweep_id,
        prepared(directory, SPEC, "axes={}").sweep_id,
        prepared(directory, SPEC, "trial.evaluation.every=2").sweep_id,
    }
    assert len(ids) == 4
    assert prepared(directory, SPEC, "execution.workers=2", "description=again").sweep_id in ids
