"""Whatever a spec names is read before anything starts; what is known then decides identities and the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dft_sweeps.cli.prompts_in_words import prompts_in_words
from dft_sweeps.evaluation.benchmarks import prompt_suffix
from dft_sweeps.spec.costs import known_costs
from dft_sweeps.spec.identity import ContentDigests, digest, training_id
from dft_sweeps.spec.models import CostSpec
from dft_sweeps.spec.plan import ClusterFacts, make_plan
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
    assert (facts.steps, facts.samples, facts.overlong, sum(facts.questions.values())) == (6, 10, 0, 5)
    assert facts.tokens_per_sample == sum(len(sample.ids) for sample in first.data) / 10
    assert first.evaluated_steps == (0, 1, 3, 6)
    assert (first.data is second.data, first.data_digest == second.data_digest) == (True, True)
    assert first.training_id != second.training_id
    content = digest([[row["prompt"], row["completion"]] for row in ROWS])
    digests = ContentDigests(sweep.model.digest, content, sweep.prompts.digest)
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


def test_samples_between_the_points_that_matter(directory: Path) -> None:
    """Steps 0 and 6 are the ends, 1 and 3 lie between, and 4 matters."""
    text = SPEC.replace(
        "sampled: {max_new_tokens: 16}", "sampled: {samples: 16, samples_between: 4, max_new_tokens: 16}"
    )
    sweep = prepared(directory, text.replace("steps: [1]", "steps: [1]\n    key_steps: [4]"))
    [trial, _] = sweep.trials
    assert trial.evaluated_steps == (0, 1, 3, 4, 6)
    samples = {step: sweep.samplings_at(trial, step)["sampled"].samples for step in trial.evaluated_steps}
    assert samples == {0: 16, 1: 4, 3: 4, 4: 16, 6: 16}
    facts = {each.trial.name: each.facts for each in sweep.trials}
    execution, pool = sweep.sweep.spec.execution, sweep.sweep.spec.pool
    costs = known_costs({each.name: each.spec for each in sweep.sweep.trials}, (), CostSpec(), execution, pool)
    plan = make_plan(sweep.sweep.trials, facts, frozenset(), execution, pool, ClusterFacts(8, 0), costs)
    assert (plan.base_completions, plan.cells[0].completions) == (5 * 16, 5 * (4 + 4 + 16 + 16))


def test_adaptive_sampling_is_for_several_samples_that_do_not_say_otherwise(directory: Path) -> None:
    text = SPEC.replace(
        "      sampled: {max_new_tokens: 16}",
        "      sampled: {samples: 16, samples_between: 1}\n"
        "      own: {samples: 8, adaptive: {half_width: 5}}\n"
        "      greedy: {temperature: 0}\n"
        "    adaptive: {half_width: 2}",
    )
    sweep = prepared(directory, text)

    def widths(step: int) -> list[float | None]:
        samplings = sweep.samplings_at(sweep.trials[0], step).values()
        return [each.adaptive and each.adaptive.half_width for each in samplings]

    assert widths(0) == [2, 5, None]
    assert widths(3) == [None, 5, None]


@pytest.mark.parametrize(
    "edit",
    [
        "trial.evaluation.adaptive={half_width: 3}",
        "trial.evaluation.key_steps=[2]",
        "trial.evaluation.selection_share=0.4",
        "trial.evaluation.template=qwen_boxed",
        "trial.evaluation.samplings.sampled.max_new_tokens=390",
    ],
)
def test_what_changes_the_points_changes_the_measures(directory: Path, edit: str) -> None:
    assert prepared(directory, SPEC, edit).measures != prepared(directory).measures


def test_measures_of_an_older_spec_are_what_they_were(directory: Path) -> None:
    """Else every trial that an earlier version finished would be evaluated again."""
    assert prepared(directory).measures == "47f9e701a945024341e6a9c0a71c3287817df1ab25155d9be743891d1a32329b"


def test_training_prompts_are_written_as_the_questions_are_unless_the_spec_says_otherwise(directory: Path) -> None:
    plain, qwen = prepared(directory), prepared(directory, SPEC, "trial.evaluation.template=qwen_boxed")
    assert [trial.facts.template for trial in qwen.trials] == ["qwen_boxed"] * 2
    assert qwen.trials[0].training_id != plain.trials[0].training_id
    chat = prepared(directory, SPEC, "trial.evaluation.template=qwen_boxed", "trial.data.template=chat")
    assert [trial.training_id for trial in chat.trials] == [trial.training_id for trial in plain.trials]
    assert [trial.facts.templated_otherwise for trial in chat.trials] == [True, True]
    assert "Written by: in training the tokenizer's chat template; in evaluation the template qwen_boxed." in (
        prompts_in_words(chat)
    )
