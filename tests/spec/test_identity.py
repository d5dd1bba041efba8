"""What is in an id and what is not. The golden ids hold for ever: whoever changes one reruns everybody's trials."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.spec.identity import (
    ContentDigests,
    evaluation_id,
    grade_id,
    sweep_id,
    training_id,
)
from dft_sweeps.spec.load import load_sweep
from dft_sweeps.spec.models import DataSpec, ModelSpec, OptimizerSpec, SamplingSpec, TrainSpec, TrialSpec
from dft_sweeps.spec.schema import dotted_paths, unknown_element
from tests.spec.example import write
from tests.spec.identity_fields import BESIDE, INSIDE, OUTSIDE

CONTENT = ContentDigests(model="m" * 64, data="d" * 64, template="t" * 64)

SPEC = """\
name: golden
trial:
  data:
    source: {kind: arithmetic, samples: 1920}
    max_length: 160
  train: {objective: {kind: sft}, learning_rate: 1e-3, batch_size: 32, steps: 60, seed: 1}
  evaluation:
    benchmarks: [arithmetic_1]
    samplings: {sampled: {}}
axes:
  train.objective.kind: [sft, dft]
  train.learning_rate: [3e-4, 1e-3]
"""
GOLDEN = {
    "objective=sft learning_rate=3e-4": "t-e3da4d16435dea61",
    "objective=sft learning_rate=1e-3": "t-acb56ec76ea2f12a",
    "objective=dft learning_rate=3e-4": "t-816bc36400dccbcd",
    "objective=dft learning_rate=1e-3": "t-a4a90873c26e8cda",
}

DEFAULTS = """\
name: golden
trial:
  preset: corrected
  model: {path: embedded, revision: null, dtype: float32, parameter_dtype: float32}
  data:
    source: {kind: arithmetic, samples: 1920, levels: [1, 2, 3], wrong_steps: 0.0, seed: 0}
    samples: null
    seed: 0
    max_length: 2048
    overflow: drop
    selection: random
    instruction: null
  train:
    objective: {kind: dft, min_probability: 0.0, max_probability: 1.0}
    learning_rate: 5e-5
    batch_size: 256
    steps: null
    epochs: 1
    seed: 0
    optimizer: {beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.01, clip_norm: 1.0}
    schedule: {kind: cosine, warmup_ratio: 0.1}
    normalization: {kind: token_mean, micro_batch_samples: 4, ranks: 8, sum_micro_batches: false}
    adapter: null
  evaluation:
    benchmarks: [arithmetic_1]
    samplings: {sampled: {}}
    histogram:
      every: null
      samples: 32
      edges: [0, 1e-4, 1e-3, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
"""
"""Every field at what is its default today, spelled out."""


def trial(**changes: Any) -> TrialSpec:
    """A trial with some dotted paths (dots written as two underscores) set to other values."""
    data: dict[str, Any] = {
        "data": {"source": {"kind": "arithmetic", "samples": 100}},
        "train": {"objective": {"kind": "sft"}, "learning_rate": 1e-3, "batch_size": 32, "steps": 60},
        "evaluation": {"benchmarks": ["arithmetic_1"], "samplings": {"sampled": {}}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return TrialSpec.model_validate(data)


def identity(**changes: Any) -> str:
    return training_id(trial(**changes), CONTENT)


def test_golden_ids(tmp_path: Path) -> None:
    trials = load_sweep(write(tmp_path, SPEC)).trials
    assert {trial.name: training_id(trial.spec, CONTENT) for trial in trials} == GOLDEN


NEW_FIELDS = """\
name: golden
trial:
  model: {dtype: bfloat16, parameter_dtype: bfloat16}
  data: {source: {kind: arithmetic, samples: 1920}, samples: 1000, selection: first, overflow: truncate}
  train:
    objective: {kind: dft, min_probability: 0.1}
    learning_rate: 5e-5
    batch_size: 256
    epochs: 1
    normalization: {kind: micro_batch_means, sum_micro_batches: true, ranks: 4}
    adapter: {kind: lora, rank: 16, target: [q_proj, v_proj]}
  evaluation: {benchmarks: [arithmetic_1], samplings: {sampled: {}}}
axes:
  train.objective:
    - {kind: dft, min_probability: 0.1}
    - {kind: power, alpha: 0.5}
    - {kind: focal}
    - {kind: eaft, top: 10}
    - {kind: psft}
    - {kind: asft}
    - {kind: iw_sft}
    - {kind: iw_sft, level: token}
    - {kind: sentence_weighted, mean: geometric}
"""
NEW_GOLDEN = {
    "objective=dft(min_probability=0.1)": "t-9fb3fbc30c244427",
    "objective=power(alpha=0.5)": "t-e486544340b7131b",
    "objective=focal": "t-0145fe9c130fd358",
    "objective=eaft(top=10)": "t-677efc7224561699",
    "objective=psft": "t-225927b2b75634ba",
    "objective=asft": "t-f460cd19ae20599f",
    "objective=iw_sft": "t-7ed5c2801e7d6a4b",
    "objective=iw_sft(level=token)": "t-88c32ceb1462b638",
    "objective=sentence_weighted(mean=geometric)": "t-3e0aa5a7d413a2ab",
}


def test_golden_ids_of_what_was_added_later(tmp_path: Path) -> None:
    trials = load_sweep(write(tmp_path, NEW_FIELDS)).trials
    assert {trial.name: training_id(trial.spec, CONTENT) for trial in trials} == NEW_GOLDEN


def test_golden_id_of_the_defaults(tmp_path: Path) -> None:
    """Fails when a default changes: the same spec would be another trial, and must have another id."""
    [spelled] = load_sweep(write(tmp_path, DEFAULTS)).trials
    assert training_id(spelled.spec, CONTENT) == "t-57ff2def39142927"


def test_it_is_decided_for_every_field_whether_it_is_in_the_id() -> None:
    paths = set(dotted_paths(TrialSpec))
    leaves = {path for path in paths if not any(other.startswith(f"{path}.") for other in paths)}
    assert leaves == INSIDE.keys() | OUTSIDE.keys()
    assert all(unknown_element(TrialSpec, path.split(".")) is None for path in leaves)


def changed(path: str, **values: Any) -> str:
    """The id where `path` has `values["to"]` beside what must be set with it, or, without `to`, where it has not."""
    fields = BESIDE.get(path, {}) | ({path: values["to"]} if values else {})
    return identity(**{name.replace(".", "__"): copy.deepcopy(value) for name, value in fields.items()})


@pytest.mark.parametrize("path", INSIDE)
def test_the_mathematics_is_in_the_id(path: str) -> None:
    assert changed(path, to=INSIDE[path]) != changed(path)


def test_every_field_changes_the_id_in_its_own_way() -> None:
    assert len({changed(path, to=INSIDE[path]) for path in INSIDE}) == len(INSIDE)


def test_what_makes_no_difference_is_not_in_the_id() -> None:
    assert identity(data__overflow="error") == identity()  # where it refuses, nothing is trained
    assert identity(data__selection="first") == identity()  # of all rows
    first = {"data__samples": 50, "data__selection": "first"}
    assert identity(**first, data__seed=1) == identity(**first) != identity(data__samples=50)
    assert identity(train__normalization={"ranks": 2, "micro_batch_samples": 4}) == identity()
    token = {"kind": "iw_sft", "level": "token"}
    assert identity(train__objective={**token, "low": 0.2, "high": 1.8}) == identity(train__objective=token)


@pytest.mark.parametrize("path", [path for path, value in OUTSIDE.items() if value is not None])
def test_names_places_and_measurements_are_not_in_the_id(path: str) -> None:
    assert identity(**{path.replace(".", "__"): OUTSIDE[path]}) == identity()


def test_another_source_of_the_same_content_is_the_same_trial() -> None:
    assert identity(data__source={"kind": "file", "path": "rows.jsonl", "prompt": "question"}) == identity()
    assert identity(data__source={"kind": "hub", "id": "someone/rows", "split": "test"}) == identity()


def test_name_execution_and_pool_are_not_in_the_id(tmp_path: Path) -> None:
    ours = load_sweep(write(tmp_path, SPEC))
    rest = "execution: {workers: 2, micro_batch_tokens: 64, cpus_per_worker: 3}\npool: {replicas: 4, dtype: bfloat16}\n"
    rest += "cost: {price_per_gpu_hour: 2.5, start_s: 1}\nbudget: {gpu_hours: 3, money: 5}\n"
    other = load_sweep(write(tmp_path, SPEC.replace("golden", "other") + rest))
    assert [training_id(trial.spec, CONTENT) for trial in other.trials] == list(GOLDEN.values())
    assert [trial.spec for trial in other.trials] == [trial.spec for trial in ours.trials]


@pytest.mark.parametrize("part", ["model", "data", "template"])
def test_content_is_in_the_id(part: str) -> None:
    parts = {"model": "m" * 64, "data": "d" * 64, "template": "t" * 64} | {part: "x" * 64}
    assert training_id(trial(), ContentDigests(**parts)) != identity()


@pytest.mark.parametrize("spelling", ["3e-4", "0.0003", "0.00030", "3.0e-04", "+.0003"])
def test_a_number_is_the_same_however_it_is_spelled(spelling: str, tmp_path: Path) -> None:
    text = SPEC.replace("[3e-4, 1e-3]", f"[{spelling}, 1e-3]").replace("seed: 1}", "seed: 01}")
    assert training_id(load_sweep(write(tmp_path, text)).trials[0].spec, CONTENT) == next(iter(GOLDEN.values()))


def test_whole_numbers_are_the_same_with_and_without_a_point(tmp_path: Path) -> None:
    ids = set()
    for epochs in ("2", "2.0", "2e0"):
        text = SPEC.replace("steps: 60", f"epochs: {epochs}").replace("1e-3]", "1]")
        trials = load_sweep(write(tmp_path, text)).trials
        ids.add(tuple(training_id(trial.spec, CONTENT) for trial in trials))
    assert len(ids) == 1


class LaterOptimizer(OptimizerSpec):
    amsgrad: bool = False


class LaterTrain(TrainSpec):
    optimizer: LaterOptimizer = LaterOptimizer()
    z_loss: float = 0.0


class LaterData(DataSpec):
    shuffle: bool = True


class LaterModel(ModelSpec):
    lora_rank: int | None = None


class LaterTrial(TrialSpec):
    """A trial as a later version might have it."""

    model: LaterModel = LaterModel()
    data: LaterData
    train: LaterTrain


@pytest.mark.parametrize("path", ["train.optimizer.amsgrad", "train.z_loss", "data.shuffle", "model.lora_rank"])
def test_a_later_field_is_in_the_id_only_where_it_is_not_at_its_default(path: str) -> None:
    stated = trial(train__optimizer__beta1=0.8).model_dump(mode="json")
    assert training_id(LaterTrial.model_validate(stated), CONTENT) == identity(train__optimizer__beta1=0.8)
    *parents, last = path.split(".")
    place = stated
    for name in parents:
        place = place[name]
    place[last] = False if path == "data.shuffle" else True if "amsgrad" in path else 3
    assert training_id(LaterTrial.model_validate(stated), CONTENT) != identity(train__optimizer__beta1=0.8)


def test_evaluation_ids() -> None:
    def of(weights: str = "w", benchmark: str = "b", template: str = "t", **sampling: Any) -> str:
        return evaluation_id(weights, benchmark, template, SamplingSpec(**sampling))

    assert of() == "e-49593b23efdbf7a7"
    stated = {"samples": 1, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4096, "seed": 0}
    stated |= {"samples_between": None, "adaptive": None, "context": None}
    assert stated.keys() == SamplingSpec.model_fields.keys()
    assert of(**stated) == of()
    other = {"samples": 2, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 8, "seed": 1, "context": 4096}
    changed = [of(**{name: value}) for name, value in other.items()] + [of("x"), of(benchmark="x"), of(template="x")]
    changed.append(of(samples=2, adaptive={"half_width": 1.0}))
    assert len({of(), *changed}) == 11


def test_grade_ids() -> None:
    assert grade_id("e-1", "exact/1") == "g-60450b1ef8912817"
    assert len({grade_id(e, g) for e in ("e-1", "e-2") for g in ("exact/1", "exact/2", "math_verify/1")}) == 6


def test_sweep_ids() -> None:
    assert sweep_id("a", ["t-2", "t-1"], [{"every": 1}]) == sweep_id("a", ["t-1", "t-2"], [{"every": 1.0}])
    same = {sweep_id(n, t, e) for n in ("a", "b") for t in (["t-1"], ["t-1", "t-2"]) for e in ({}, {"every": 1})}
    assert len(same) == 8
    assert {identifier[:2] for identifier in same} == {"s-"}
