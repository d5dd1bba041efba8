"""Whatever a spec names is read before anything starts; what is known then decides identities and the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dft_sweeps.evaluation.benchmarks import prompt_suffix
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
    assert facts.tokens_per_sample == sum(len(sample.ids) for sample in first.data) / 10
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


LONG = {"prompt": "1+1=", "completion": "2" * 99}


def test_overlong_samples_are_counted(directory: Path) -> None:
    write_rows(directory / "rows.jsonl", [*ROWS, LONG, {"prompt": "1" * 99, "completion": "2"}, LONG])

    def found(text: str, *overrides: str) -> tuple[int, int, int]:
        facts = prepared(directory, text, *overrides).trials[0].facts
        return facts.samples, facts.overlong, facts.dropped

    assert found(SPEC) == (10, 3, 3)
    assert found(SPEC, "trial.data.overflow=truncate") == (12, 3, 1)
    assert found(SPEC, "trial.data.max_length=400", "trial.data.overflow=truncate") == (13, 0, 0)
    assert found(SPEC, "trial.data.samples=11", "trial.data.selection=first") == (10, 1, 1)


def test_an_instruction_is_in_the_identity_wherever_it_comes_from(directory: Path) -> None:
    plain, asked = prepared(directory), prepared(directory, SPEC, "trial.data.instruction=' Think.'")
    assert plain.trials[0].training_id != asked.trials[0].training_id
    write_rows(directory / "rows.jsonl", [{**row, "prompt": row["prompt"] + " Think."} for row in ROWS])
    inside = prepared(directory).trials[0]
    assert (inside.training_id, inside.data_digest) == (asked.trials[0].training_id, asked.trials[0].data_digest)
    assert list(inside.data) == list(asked.trials[0].data)


def test_whether_training_prompts_are_those_of_the_evaluation(directory: Path) -> None:
    suffix = prompt_suffix("gsm8k")

    def others(*overrides: str) -> list[tuple[str, ...]]:
        sweep = prepared(directory, SPEC, "trial.data.max_length=200", *overrides)
        return [trial.facts.prompted_otherwise for trial in sweep.trials]

    override = f"trial.data.instruction={json.dumps(suffix)}"
    assert others() == [("gsm8k",)] * 2
    assert others(override) == [()] * 2
    assert others("trial.evaluation.benchmarks=[arithmetic_1]", "pool.max_model_len=300") == [()] * 2
    assert others("trial.evaluation.benchmarks=[arithmetic_1]", override) == [("arithmetic_1",)] * 2
    write_rows(directory / "rows.jsonl", [{**row, "prompt": row["prompt"] + suffix} for row in ROWS])
    assert others() == [()] * 2
    assert others(override) == [()] * 2
    write_rows(directory / "rows.jsonl", [*ROWS[:9], {**ROWS[9], "prompt": ROWS[9]["prompt"] + suffix}])
    assert others() == [("gsm8k",)] * 2


def test_trials_of_one_data_share_it_whatever_their_preset(directory: Path) -> None:
    text = SPEC.replace("max_length: 64", "max_length: 64\n    overflow: drop\n    instruction: ''")
    text = text.replace("batch_size: 4", "batch_size: 4\n    normalization: {ranks: 1}")
    first, *_, last = prepared(directory, text.replace("axes:\n", "axes:\n  preset: [paper, corrected]\n")).trials
    assert first.data is last.data
    assert len({trial.training_id for trial in (first, last)}) == 2
    assert (first.trial.spec.model.parameter_dtype, last.trial.spec.model.parameter_dtype) == ("bfloat16", "float32")
    assert first.facts.instruction == ""


def test_a_histogram_is_measured_where_it_is_not_the_default(directory: Path) -> None:
    plain = prepared(directory)
    edges = [0, 1e-4, 1e-3, 0.01, *(tenth / 10 for tenth in range(1, 10)), 1]
    stated = prepared(directory, SPEC, f"trial.evaluation.histogram={{samples: 32, edges: {edges}}}")
    other = prepared(directory, SPEC, "trial.evaluation.histogram={every: 2}")
    coarse = prepared(directory, SPEC, "trial.evaluation.histogram={edges: [0, 0.5, 1]}")
    assert (stated.measures, stated.sweep_id) == (plain.measures, plain.sweep_id)
    assert other.measures != plain.measures and other.sweep_id != plain.sweep_id
    assert len({coarse.measures, other.measures, plain.measures}) == 3
    assert [trial.training_id for trial in other.trials] == [trial.training_id for trial in plain.trials]


def test_the_sweep_id_is_of_name_trials_and_measurements(directory: Path) -> None:
    ids = {
        prepared(directory).sweep_id,
        prepared(directory, SPEC, "name=other").sweep_id,
        prepared(directory, SPEC, "axes={}").sweep_id,
        prepared(directory, SPEC, "trial.evaluation.every=2").sweep_id,
    }
    assert len(ids) == 4
    assert prepared(directory, SPEC, "execution.workers=2", "description=again").sweep_id in ids
