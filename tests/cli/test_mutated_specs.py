"""Whatever stands in any place of a spec, planning it ends with a plan or with one message."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from dft_sweeps.cli.gather import plan_of
from dft_sweeps.cli.plan import plan_record
from dft_sweeps.orchestration.prepare import prepare
from dft_sweeps.spec import yaml_lines
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_stored
from dft_sweeps.spec.placement import ClusterFacts

SEARCHED = """\
name: searched
description: a search with a scheduler
trial:
  preset: corrected
  model: {path: embedded, dtype: float32}
  data: {source: {kind: arithmetic, samples: 32, levels: [1], wrong_steps: 0.1, seed: 1}, max_length: 160, seed: 2}
  train:
    objective: {kind: sft}
    learning_rate: 1e-3
    batch_size: 8
    epochs: 2.0
    optimizer: {beta1: 0.9, eps: 1e-8, weight_decay: 0.01, clip_norm: 1.0}
    schedule: {kind: cosine, warmup_ratio: 0.1}
    adapter: {kind: lora, rank: 4, alpha: 8.0, target: [q_proj]}
  evaluation:
    benchmarks: [{name: arithmetic_1, limit: 4}]
    every: 4
    steps: [1]
    key_steps: [2]
    samplings:
      sampled: {samples: 4, samples_between: 2, temperature: 1.0, top_p: 0.9, max_new_tokens: 16, context: 200}
    adaptive: {half_width: 2.0}
    selection_share: 0.5
    histogram: {every: 4, samples: 4, edges: [0.0, 0.5, 1.0]}
axes:
  train.objective.kind: [sft, dft]
variants:
  - {name: noisy}
  - {name: clean, set: {data.source.wrong_steps: 0.0}}
search:
  kind: tpe
  trials: 3
  batch: 2
  seed: 1
  sampling: sampled
  space:
    train.learning_rate: {kind: log_uniform, low: 1e-4, high: 1e-2}
    train.seed: {kind: choice, values: [0, 1, 2]}
    train.optimizer.weight_decay: {kind: uniform, low: 0.0, high: 0.1}
scheduler: {kind: asha, rungs: [2, 4], reduction_factor: 3.0, sampling: sampled, apart: [train.objective.kind]}
execution: {workers: 1, cpus_per_worker: 1, micro_batch_tokens: 512, save_every_s: 60.0, max_concurrent_trials: 2}
pool: {replicas: 1, max_replicas: 2, cpus_per_engine: 1, max_model_len: 256, kv_cache_gib: 1.0}
cost:
  price_per_gpu_hour: 2.5
  train_tokens_per_second: 1000
  completion_tokens_per_second: 500
  tokens_per_completion: 20
  start_s: 45
  workers_start_s: 20
  trial_start_s: 2
budget: {gpu_hours: 100, cpu_hours: 100, money: 100}
"""
PLAIN = """\
name: plain
trial:
  preset: paper
  data: {source: {kind: arithmetic, samples: 64}, max_length: 160, instruction: Think., template: chat}
  train:
    objective: {kind: iw_sft, low: 0.5, high: 2.0, temperature: 1.0}
    learning_rate: 1e-3
    batch_size: 32
    steps: 4
    normalization: {kind: micro_batch_means, micro_batch_samples: 4, ranks: 8, sum_micro_batches: true}
  evaluation: {benchmarks: [arithmetic_1], template: chat}
axes:
  train.objective: [{kind: power, alpha: 0.5}, {kind: focal, gamma: 2.0}, {kind: eaft, top: 4}, {kind: psft}]
  train.learning_rate: [1e-3, 1e-4]
search: {kind: random, trials: 2, space: {train.seed: {kind: choice, values: [0, 1]}}}
execution: {attention: auto, compile: false}
pool: {max_model_len: 256, max_num_seqs: 64, dtype: float32, gpu_memory_utilization: 0.9}
"""
ODD: tuple[Any, ...] = (
    *(None, True, "", "x", 0, -1, 1, 7, 0.5, [], [None], [[]], ["x"], [0, 0], {}, {"x": None}, {"kind": "x"}),
    *(2**63 - 1, 4000, 1.7e308, -1.7e308, 5e-324, 1e-320),
)


def nodes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all values of a spec, the whole of it left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from nodes(item, (*path, key))


def mutated(text: str, values: int) -> Iterator[tuple[str, Any]]:
    """The spec with some odd values, so many, in each of its places in turn."""
    original, _ = yaml_lines.parse(text, str)
    for path in nodes(original):
        for odd in random.Random(yaml_lines.dotted(path)).sample(ODD, values):
            data = copy.deepcopy(original)
            parent = data
            for element in path[:-1]:
                parent = parent[element]
            parent[path[-1]] = odd
            yield f"{yaml_lines.dotted(path)} = {odd!r}", data


@pytest.mark.parametrize("values", [1, pytest.param(len(ODD), marks=[pytest.mark.slow, pytest.mark.faults])])
@pytest.mark.parametrize("text", [SEARCHED, PLAIN], ids=["searched", "plain"])
def test_a_spec_with_anything_anywhere_is_planned_or_refused(
    text: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    planned = []
    for change, data in mutated(text, values):
        try:
            prepared = prepare(load_stored(yaml_lines.dump(data), "spec.yaml"))
            record = plan_record(prepared, plan_of(prepared, frozenset(), ClusterFacts(8, 8)))
            json.dumps(record, allow_nan=False, default=dataclasses.asdict)  # as the API answers
        except SpecError:
            continue
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for {change}: {error}") from error
        planned.append(change)
    assert planned
