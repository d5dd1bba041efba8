"""The models of the spec language: what a user can write in a sweep spec, and nothing else.

Every model is frozen and refuses unknown fields. Fields of `model`, `data` and `train` decide the mathematics of a
trial and enter its `training_id`; `evaluation` decides what is measured; `execution` and `pool` decide only where and
how fast it runs (`dft_sweeps.spec.identity`).
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from dft_sweeps.spec.data_models import (
    ArithmeticSource,
    DataSpec,
    FileSource,
    HubSource,
    ModelSpec,
    NuminaMathSource,
    Source,
)
from dft_sweeps.spec.objective_models import (
    AsftObjective,
    DftObjective,
    EaftObjective,
    FocalObjective,
    IwSftObjective,
    Objective,
    PowerObjective,
    PsftObjective,
    SentenceWeightedObjective,
    SftObjective,
)
from dft_sweeps.spec.spec_model import Name, PathName, SpecModel
from dft_sweeps.spec.train_models import (
    MOST_STEPS,
    LoraSpec,
    NormalizationSpec,
    OptimizerSpec,
    ScheduleSpec,
    TrainSpec,
)
from dft_sweeps.spec.yaml_lines import shown

__all__ = [
    "MOST_STEPS",
    "ArithmeticSource",
    "AsftObjective",
    "BenchmarkSpec",
    "DataSpec",
    "DftObjective",
    "EaftObjective",
    "EvaluationSpec",
    "ExecutionSpec",
    "FileSource",
    "FocalObjective",
    "HistogramSpec",
    "HubSource",
    "IwSftObjective",
    "LoraSpec",
    "ModelSpec",
    "NormalizationSpec",
    "NuminaMathSource",
    "Objective",
    "OptimizerSpec",
    "PoolSpec",
    "PowerObjective",
    "PsftObjective",
    "SamplingSpec",
    "ScheduleSpec",
    "SentenceWeightedObjective",
    "SftObjective",
    "Source",
    "SpecModel",
    "SweepSpec",
    "TrainSpec",
    "TrialSpec",
    "VariantSpec",
]


def _metric_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value):
        raise ValueError(f"{value!r} cannot name a sampling: at most 64 of a-z, 0-9 and `_`, beginning with a letter")
    return value


# --- evaluation -------------------------------------------------------------------------------------------------------


class BenchmarkSpec(SpecModel):
    """A benchmark by its name, e.g. `gsm8k`, or with a local file and a limit."""

    name: str = Field(min_length=1)
    path: PathName | None = None
    """Local file to read instead of the benchmark's own source; relative to the spec file."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many questions; said on every table."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict | BenchmarkSpec):
            raise ValueError("a benchmark is given by its name, or by a mapping with its `name`")
        return value


class SamplingSpec(SpecModel):
    samples: int = Field(default=1, ge=1, le=1024)
    """Completions per question."""
    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=4096, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _greedy_once(self) -> SamplingSpec:
        if self.temperature == 0.0 and self.samples > 1:
            raise ValueError("at temperature 0 every sample is the same: set `samples: 1`")
        return self


class HistogramSpec(SpecModel):
    """The shares of target tokens by their probability under the policy: the paper's Figure 2."""

    every: int | None = Field(default=None, ge=1)
    """Every so many steps; at the evaluated steps by default."""
    samples: int = Field(default=32, ge=1)
    """Training samples whose targets are counted, the same in every trial of one data."""
    edges: tuple[float, ...] = (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Where the bins of probability begin and end, from 0 to 1; the paper's by default."""

    @field_validator("edges")
    @classmethod
    def _cover_all_probabilities(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if len(edges) < 2:
            raise ValueError(f"should have at least two edges, found {shown(list(edges))}")
        if (edges[0], edges[-1]) != (0, 1):
            raise ValueError(f"should go from 0 to 1, found {edges[0]} to {edges[-1]}")
        for low, high in itertools.pairwise(edges):
            if low >= high:
                raise ValueError(f"should rise from edge to edge, found {high} after {low}")
        return edges


class EvaluationSpec(SpecModel):
    benchmarks: tuple[BenchmarkSpec, ...] = Field(min_length=1)
    every: int | None = Field(default=None, ge=1)
    """Evaluate every so many steps. Step 0 (the base model) and the last step are always evaluated."""
    steps: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further steps to evaluate."""
    samplings: dict[Annotated[str, AfterValidator(_metric_name)], SamplingSpec] = Field(min_length=1)
    """Ways to sample, by name. The first one gives `eval/<benchmark>/accuracy`, any other
    `eval_<name>/<benchmark>/accuracy`."""
    histogram: HistogramSpec = HistogramSpec()

    @field_validator("benchmarks")
    @classmethod
    def _distinct(cls, benchmarks: tuple[BenchmarkSpec, ...]) -> tuple[BenchmarkSpec, ...]:
        names = [benchmark.name for benchmark in benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"benchmark named twice: {', '.join(twice)}")
        return benchmarks

    def due(self, last: int) -> tuple[int, ...]:
        """Steps to evaluate in a trial of `last` steps, in order: 0, multiples of `every`, `steps`, and `last`."""
        chosen = {0, last, *self.steps, *range(0, last, self.every or last)}
        return tuple(sorted(chosen))


class TrialSpec(SpecModel):
    """One fine-tuning run and how its checkpoints are measured."""

    preset: Literal["corrected", "paper"] = "corrected"
    """Where the values of fields come from that the spec does not give (`dft_sweeps.spec.presets`)."""
    model: ModelSpec = ModelSpec()
    data: DataSpec
    train: TrainSpec
    evaluation: EvaluationSpec


# --- the sweep --------------------------------------------------------------------------------------------------------


class ExecutionSpec(SpecModel):
    """Where and how fast a trial runs. Changes bits, never the mathematics; not part of a trial's identity."""

    workers: int = Field(default=1, ge=1)
    """Ray Train workers per trial; more than one shards the policy with FSDP2."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPU cores, and so threads, per worker."""
    gpus_per_worker: int = Field(default=0, ge=0)
    micro_batch_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one forward pass of one worker (more where one sample is longer)."""
    pack_length: int = Field(default=512, ge=16)
    """Samples are packed into rows of this many tokens (longer where one sample is longer). Of no effect where
    attention is by_sample or flash_attention_2: there a micro-batch is one row."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the policy's layers with torch.compile."""
    attention: Literal["auto", "by_sample", "sdpa", "flex_attention", "flash_attention_2"] = "auto"
    """How attention over packed samples is computed: by default as is fastest on the machine."""
    save_every_s: float = Field(default=60.0, ge=0.0)
    """Seconds between the states a killed trial goes on from; 0: after every step."""
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at a time; as many as the cluster holds by default."""

    @model_validator(mode="after")
    def _attends_where_it_can(self) -> ExecutionSpec:
        if self.attention in ("flash_attention_2", "flex_attention") and not self.gpus_per_worker:
            raise ValueError(f"attention {self.attention} needs gpus_per_worker of at least 1; auto works anywhere")
        return self


class PoolSpec(SpecModel):
    """The pool of evaluation engines."""

    replicas: int = Field(default=1, ge=1)
    cpus_per_engine: int = Field(default=1, ge=1)
    gpus_per_engine: int = Field(default=0, ge=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: int = Field(default=4096, ge=16)
    """Longest prompt plus completion an engine takes, in tokens."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Completions an engine generates side by side."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """Memory for the KV cache of a CPU engine."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)


class VariantSpec(SpecModel):
    """A named bundle of overrides, crossed with the axes."""

    name: Name
    set: dict[str, Any] = Field(default={})
    """Dotted path of a trial's field to its value. A path that is also an axis is fixed in this variant."""


class SweepSpec(SpecModel):
    name: Name
    """Name of the MLflow experiment and of the figures."""
    description: str = ""
    trial: dict[str, Any]
    """The template every trial starts from: fields of a trial; axes and variants may give the rest."""
    axes: dict[str, tuple[Any, ...]] = Field(default={})
    """Dotted path of a trial's field to the values it takes; every combination is a trial."""
    variants: tuple[VariantSpec, ...] = ()
    execution: ExecutionSpec = ExecutionSpec()
    pool: PoolSpec = PoolSpec()
