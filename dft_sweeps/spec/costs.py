"""How fast a sweep's trials and engines are expected to be: as runs of the same model measured it, else as declared.

Pure functions; outer layers record measurements and find those that a plan may use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Literal

from dft_sweeps.spec.identity import digest
from dft_sweeps.spec.models import CostSpec, ExecutionSpec, PoolSpec, TrialSpec

Origin = Literal["measured", "declared", "unknown"]

_WORKERS = {"workers", "cpus_per_worker", "gpus_per_worker"}
_STEPS = {"micro_batch_tokens", "pack_length", "gradient_checkpointing", "compile", "attention"}
_ENGINE = {"cpus_per_engine", "gpus_per_engine", "tensor_parallel", "dtype", "max_num_seqs"}
_WARM_S = 2.0
"""Workers that were up sooner had been before."""


@dataclass
class Measurement:
    """What one attempt at a trial measured. Kept as JSON in a tag of its MLflow run."""

    training_shape: str
    """`training_shape` of the trial."""
    engine_shape: str
    """`engine_shape` of the sweep."""
    objective: str
    """Kind of the objective."""
    workers_start_s: float = 0.0
    """Seconds until its workers were up; next to nothing where they were, from a trial before."""
    start_s: float = 0.0
    """Seconds from there to its first optimizer step."""
    train_s: float = 0.0
    """Wall-clock seconds of its optimizer steps, with the checkpoints and histograms between them; 0 where that was
    not measured."""
    train_tokens: int = 0
    """Tokens of the samples that were trained on in `train_s`."""
    evaluation_s: float = 0.0
    """Seconds of engines on its checkpoints, from the swap to the last verdict."""
    evaluation_tokens: int = 0
    """Tokens of the checkpoints that `evaluation_s` went to; those that were wholly in the store are not counted."""
    lengths: dict[str, list[int]] = field(default_factory=dict)
    """By `length_key`: tokens and number of completions."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Measurement:
        return cls(**json.loads(text))


def length_key(benchmark: str, max_new_tokens: int) -> str:
    return f"{benchmark}/{max_new_tokens}"


def training_shape(trial: TrialSpec, execution: ExecutionSpec) -> str:
    """Hash of what, beside model, objective and machine, decides how fast a trial trains."""
    adapter = None if trial.train.adapter is None else trial.train.adapter.model_dump(mode="json")
    model = trial.model.model_dump(mode="json", exclude={"path", "revision"})
    return digest([model, adapter, execution.model_dump(mode="json", include=_WORKERS | _STEPS)])[:16]


def engine_shape(pool: PoolSpec) -> str:
    """Hash of what, beside model and machine, decides how fast an engine generates."""
    return digest(pool.model_dump(mode="json", include=_ENGINE))[:16]


@dataclass(frozen=True)
class TrialSpeed:
    tokens_per_second: float | None
    """Of the whole trial; None where nothing is known."""
    start_s: float
    """From when its workers are up to its first optimizer step."""
    origin: Origin


@dataclass(frozen=True)
class Costs:
    """What a plan reckons with."""

    trials: Mapping[str, TrialSpeed]
    """By name of the trial."""
    completion_tokens_per_second: float | None
    """Of one engine."""
    engine_origin: Origin
    lengths: Mapping[str, float]
    """Mean tokens of a completion by `length_key`, where measured."""
    tokens_per_completion: float | None
    """Where not measured; None: the most."""
    start_s: float
    """Until the engines are up."""
    workers_start_s: float
    """From then until the first trials' workers are."""
    price_per_gpu_hour: float | None

    def length(self, benchmark: str, max_new_tokens: int) -> tuple[float, str]:
        """Tokens of a completion, and where that is known from: measured, declared, or at most."""
        measured = self.lengths.get(length_key(benchmark, max_new_tokens))
        if measured is not None:
            return measured, "measured"
        if self.tokens_per_completion is not None:
            return min(self.tokens_per_completion, max_new_tokens), "declared"
        return max_new_tokens, "at most"


def known_costs(
    trials: Mapping[str, TrialSpec],
    measurements: Sequence[Measurement],
    cost: CostSpec,
    execution: ExecutionSpec,
    pool: PoolSpec,
) -> Costs:
    """Args: `measurements` are of the sweep's model, on machines like those it will have; `trials` by name."""
    rate = cost.completion_tokens_per_second
    origin: Origin = "declared" if rate else "unknown"
    engines = [each for each in measurements if each.engine_shape == engine_shape(pool) and each.evaluation_s]
    if engines:
        rate = sum(each.evaluation_tokens for each in engines) / sum(each.evaluation_s for each in engines)
        origin = "measured"
    cold = [each.workers_start_s for each in measurements if each.train_s and each.workers_start_s > _WARM_S]
    return Costs(
        trials={name: _trial_speed(trial, measurements, cost, execution) for name, trial in trials.items()},
        completion_tokens_per_second=rate,
        engine_origin=origin,
        lengths=_lengths(measurements),
        tokens_per_completion=cost.tokens_per_completion,
        start_s=cost.start_s,
        # The median: on a shared cluster some of them waited for hours until others gave their GPUs back.
        workers_start_s=median(cold) if cold else cost.workers_start_s,
        price_per_gpu_hour=cost.price_per_gpu_hour,
    )


def _trial_speed(
    trial: TrialSpec, measurements: Sequence[Measurement], cost: CostSpec, execution: ExecutionSpec
) -> TrialSpeed:
    shape = training_shape(trial, execution)
    alike = [each for each in measurements if each.training_shape == shape and each.train_s]
    # Objectives share nearly all of a step's work, so that another one's speed is better than none.
    alike = [each for each in alike if each.objective == trial.train.objective.kind] or alike
    if alike:
        rate = sum(each.train_tokens for each in alike) / sum(each.train_s for each in alike)
        return TrialSpeed(rate, fmean(each.start_s for each in alike), "measured")
    if cost.train_tokens_per_second is None:
        return TrialSpeed(None, cost.trial_start_s, "unknown")
    return TrialSpeed(cost.train_tokens_per_second * execution.workers, cost.trial_start_s, "declared")


def _lengths(measurements: Sequence[Measurement]) -> dict[str, float]:
    sums: dict[str, tuple[int, int]] = {}
    for each in measurements:
        for key, (tokens, completions) in each.lengths.items():
            before = sums.get(key, (0, 0))
            sums[key] = before[0] + tokens, before[1] + completions
    return {key: tokens / completions for key, (tokens, completions) in sums.items()}
