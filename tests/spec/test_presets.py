"""A preset lies under what a spec sets: it fills in, and never wins."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dft_sweeps.spec import schema
from dft_sweeps.spec.identity import ContentDigests, training_id
from dft_sweeps.spec.load import Sweep, load_sweep
from dft_sweeps.spec.models import NormalizationSpec, TrialSpec
from dft_sweeps.spec.presets import VALUES, apply_preset
from tests.spec.example import SPEC, edited, section, write

CONTENT = ContentDigests(model="m" * 64, data="d" * 64, template="t" * 64)

PAPER = """\
name: paper
trial:
  preset: paper
  model: {path: Qwen/Qwen2.5-Math-1.5B}
  data: {source: {kind: numinamath_cot}}
  train: {objective: {kind: dft}}
  evaluation: {benchmarks: [amc23], samplings: {sampled: {samples: 16}}}
"""

SPELLED = """\
name: paper
trial:
  model: {path: Qwen/Qwen2.5-Math-1.5B, dtype: bfloat16, parameter_dtype: bfloat16}
  data:
    source: {kind: numinamath_cot}
    samples: 100000
    selection: first
    max_length: 2048
    overflow: truncate
    instruction: ""
    template: chat
  train:
    objective: {kind: dft}
    learning_rate: 5e-5
    batch_size: 256
    epochs: 1
    normalization: {kind: micro_batch_means, micro_batch_samples: 4, ranks: 8, sum_micro_batches: true}
    optimizer: {beta1: 0.9, beta2: 0.95, weight_decay: 0.01, clip_norm: 1.0}
    schedule: {kind: cosine, warmup_ratio: 0.1}
  evaluation: {benchmarks: [amc23], samplings: {sampled: {samples: 16}}}
"""


def loaded(directory: Path, text: str, *overrides: str) -> Sweep:
    return load_sweep(write(directory, text), overrides)


def test_the_paper_is_what_the_published_run_did(tmp_path: Path) -> None:
    [ours], [spelled] = loaded(tmp_path, PAPER).trials, loaded(tmp_path, SPELLED).trials
    assert ours.spec == spelled.spec.model_copy(update={"preset": "paper"})
    assert training_id(ours.spec, CONTENT) == training_id(spelled.spec, CONTENT)
    assert ours.preset.values.keys() == VALUES["paper"].keys()
    assert spelled.preset.values == {}
    again = loaded(tmp_path, loaded(tmp_path, PAPER).resolved_yaml()).trials
    assert again == (ours,)


def test_the_default_is_the_fields_defaults(tmp_path: Path) -> None:
    text = SPEC.replace(section("axes"), "").replace(section("variants"), "")
    bare = TrialSpec.model_validate(yaml.safe_load(text.replace("1e-3", "0.001"))["trial"])
    [trial] = loaded(tmp_path, text).trials
    assert trial.spec == bare
    assert trial.spec.preset == trial.preset.name == "corrected"
    assert loaded(tmp_path, text.replace("  train:\n", "  preset: corrected\n  train:\n")).trials == (trial,)


def test_bfloat16_is_computed_in_where_there_are_gpus(tmp_path: Path) -> None:
    text = edited("workers: 1", "gpus_per_worker: 1")
    trials = loaded(tmp_path, text).trials
    assert {trial.spec.model.dtype for trial in trials} == {"bfloat16"}
    assert {trial.spec.model.parameter_dtype for trial in trials} == {"float32"}
    assert trials[0].preset.values["model.dtype"] == "bfloat16"
    own = loaded(tmp_path, text, "trial.model.dtype=float32").trials[0]
    assert own.spec.model.dtype == "float32"
    assert "model.dtype" in own.preset.replaced and "model.dtype" not in own.preset.values


def test_what_the_spec_sets_wins_and_the_rest_is_filled_in(tmp_path: Path) -> None:
    changes = "learning_rate: 2e-5, batch_size: 64, normalization: {ranks: 4, sum_micro_batches: false}"
    text = PAPER.replace("{kind: dft}}", "{kind: dft}, " + changes + "}")
    text = text.replace("numinamath_cot}", "numinamath_cot}, samples: 500, overflow: drop, instruction: null")
    trial = loaded(tmp_path, text).trials[0]
    train = trial.spec.train
    assert (train.learning_rate, train.batch_size, train.epochs) == (2e-5, 64, 1)
    assert train.normalization == NormalizationSpec(kind="micro_batch_means", ranks=4)
    data = trial.spec.data
    assert (data.samples, data.selection, data.overflow, data.instruction) == (500, "first", "drop", None)
    assert trial.preset.words.endswith(
        "the spec's own: train.normalization.ranks, train.normalization.sum_micro_batches, train.batch_size, "
        "train.learning_rate, data.samples, data.overflow, data.instruction"
    )


def test_steps_stand_in_for_the_presets_epochs(tmp_path: Path) -> None:
    text = PAPER.replace("{kind: dft}}", "{kind: dft}, steps: 10}")
    assert loaded(tmp_path, text).trials[0].spec.train.epochs is None
    assert loaded(tmp_path, PAPER, "trial.train.steps=null").trials[0].spec.train.epochs == 1


def test_a_hundred_thousand_rows_are_of_the_papers_data_only(tmp_path: Path) -> None:
    spec = loaded(tmp_path, PAPER.replace("numinamath_cot", "hub, id: a/b")).trials[0].spec
    assert (spec.data.samples, spec.data.selection, spec.data.overflow) == (None, "random", "truncate")
    less = loaded(tmp_path, PAPER.replace("numinamath_cot}", "hub, id: a/b}, samples: 7")).trials[0].spec
    assert (less.data.samples, less.data.selection) == (7, "first")


def test_a_preset_may_be_an_axis_or_a_variants(tmp_path: Path) -> None:
    axis = edited("  train.learning_rate", "  preset: [paper, corrected]\n  train.learning_rate")
    trials = loaded(tmp_path, axis).trials
    assert len(trials) == 16
    assert trials[0].name == "noisy objective=sft preset=paper learning_rate=3e-4"
    assert [trial.spec.model.parameter_dtype for trial in trials[:4]] == ["bfloat16"] * 2 + ["float32"] * 2
    assert trials[0].spec.train.batch_size == 32  # the template's
    variant = loaded(tmp_path, edited("{data.source.wrong_steps: 0.0}", "{preset: paper}")).trials
    assert [trial.spec.preset for trial in variant] == ["corrected"] * 4 + ["paper"] * 4
    assert {trial.spec.train.normalization.kind for trial in variant[4:]} == {"micro_batch_means"}


def test_a_size_of_data_may_be_an_axis(tmp_path: Path) -> None:
    trials = loaded(tmp_path, f"{PAPER}axes:\n  data.samples: [20000, 40000, 100000]\n").trials
    assert [trial.spec.data.samples for trial in trials] == [20_000, 40_000, 100_000]
    assert {trial.spec.data.selection for trial in trials} == {"first"}


def test_every_value_of_a_preset_has_its_field_and_none_is_below_a_choice_of_kinds() -> None:
    for values in VALUES.values():
        for path in values:
            names = path.split(".")
            assert schema.unknown_element(TrialSpec, names) is None
            for depth in range(len(names)):
                assert len(schema._types_at(TrialSpec, names[:depth])) == 1


@pytest.mark.parametrize("preset", [3, None, ["paper"], {"paper": 1}, "frob"])
def test_what_is_no_preset_gives_nothing(preset: object) -> None:
    data = {"preset": preset, "train": {}}
    assert apply_preset(data, 1).values == {}
    assert data == {"preset": preset, "train": {}}


def test_what_is_no_mapping_is_left_for_the_models_to_refuse() -> None:
    data: dict = {"preset": "paper", "model": None, "train": {"normalization": 3}, "data": {"source": []}}
    apply_preset(data, 0)
    assert (data["model"], data["train"]["normalization"], data["data"]["source"]) == (None, 3, [])
    assert data["train"]["batch_size"] == 256


def test_a_mistake_in_a_presets_value_names_the_preset(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, PAPER)
    [trial] = sweep.trials
    error = trial.error(sweep.document, ("train", "batch_size"), "too many")
    assert str(error) == (
        f"{tmp_path}/study.yaml:6: trial.train.batch_size: too many (the preset 'paper' sets train.batch_size to 256)"
    )
    other = trial.error(sweep.document, ("data",), "data.samples is 100000, but the source has 10 rows")
    assert str(other).startswith(f"{tmp_path}/study.yaml:5: trial.data: data.samples is 100000, but")
    assert str(other).endswith("has 10 rows (the preset 'paper' sets data.samples to 100000)")
    own = trial.error(sweep.document, ("train", "objective"), "no")
    assert str(own) == f"{tmp_path}/study.yaml:6: trial.train.objective: no"


def test_the_words_are_those_of_the_values(tmp_path: Path) -> None:
    [trial] = loaded(tmp_path, PAPER).trials
    known = VALUES["paper"].values()
    assert trial.preset.words == f"preset paper: {', '.join(words for _, words in known)}"
    plain = loaded(tmp_path, SPEC).trials[0]
    assert plain.preset.words == (
        "preset corrected: computed in float32, parameters and AdamW moments in float32, the loss averaged over all "
        "targets of a batch, clipped by its own norm, overlong samples left out"
    )
