"""The models of the spec language: what a user can write in a sweep spec, and nothing else.

Every model is frozen and refuses unknown fields. Fields of `model`, `data` and `train` decide the mathematics of a
trial and enter its `training_id`; `evaluation` decides what is measured; `execution` and `pool` decide only where and
how fast it runs (`dft_sweeps.spec.identity`).
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_STEPS = 10_000_000
"""Longer trials are a slip of the keyboard, and the plan lists the steps it evaluates."""


class SpecModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", value):
        raise ValueError(
            f"{value!r} cannot be a name: at most 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
        )
    return value


def _metric_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value):
        raise ValueError(f"{value!r} cannot name a sampling: at most 64 of a-z, 0-9 and `_`, beginning with a letter")
    return value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError(f"{value!r} names no file or directory")
    if os.path.expanduser(value).startswith("~"):
        raise ValueError(f"{value!r} begins in a home directory that there is not")
    return value


Name = Annotated[str, AfterValidator(_name)]
PathName = Annotated[str, AfterValidator(_path)]


# --- model and data ---------------------------------------------------------------------------------------------------


class ModelSpec(SpecModel):
    path: PathName = "embedded"
    """`embedded` (the base policy shipped with the package), a local directory, or a Hugging Face model id."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. It only says what to fetch: ids hash the content that is fetched."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of training; weights and optimizer moments stay float32."""


class ArithmeticSource(SpecModel):
    """Worked additions and subtractions made by the package's own seeded generator."""

    kind: Literal["arithmetic"]
    samples: int = Field(ge=1, le=10_000_000)
    """How many demonstrations to generate."""
    levels: tuple[Annotated[int, Field(ge=1, le=3)], ...] = Field(default=(1, 2, 3), min_length=1)
    """Difficulty levels to draw from, evenly."""
    wrong_steps: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of demonstrations that contain a wrong step. Wrong steps favour DFT over SFT."""
    seed: int = Field(default=0, ge=0)


class FileSource(SpecModel):
    """A JSON-lines (`.jsonl`, `.json`) or Parquet file with one row per demonstration."""

    kind: Literal["file"]
    path: PathName
    """Relative paths start at the directory of the spec file."""
    prompt: str = "prompt"
    """Name of the field with the question."""
    completion: str = "completion"
    """Name of the field with the worked solution."""


class HubSource(SpecModel):
    """A Hugging Face dataset."""

    kind: Literal["hub"]
    id: str = Field(min_length=1)
    name: str | None = None
    """Configuration of the dataset, where it has several."""
    revision: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    completion: str = "completion"


Source = Annotated[ArithmeticSource | FileSource | HubSource, Field(discriminator="kind")]


class DataSpec(SpecModel):
    source: Source
    samples: int | None = Field(default=None, ge=1)
    """Use this many rows, drawn at random by `seed`; all rows by default."""
    seed: int = Field(default=0, ge=0)
    max_length: int = Field(default=2048, ge=2)
    """Longest prompt plus completion, in tokens."""
    overflow: Literal["error", "drop"] = "error"
    """What to do with longer samples: refuse the spec, or leave them out and report how many."""


# --- training ---------------------------------------------------------------------------------------------------------


class SftObjective(SpecModel):
    """Supervised fine-tuning: -log p."""

    kind: Literal["sft"]


class DftObjective(SpecModel):
    """Dynamic fine-tuning, Eq. 9 of arXiv 2508.05629: -sg(p) log p."""

    kind: Literal["dft"]


Objective = Annotated[SftObjective | DftObjective, Field(discriminator="kind")]


class OptimizerSpec(SpecModel):
    """AdamW, with the values of the paper's recipe as defaults."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest global gradient norm; larger gradients are scaled down to it."""


class ScheduleSpec(SpecModel):
    kind: Literal["cosine", "constant"] = "cosine"
    """After the linear warm-up: cosine decay to zero, or constant."""
    warmup_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of all steps spent in linear warm-up."""


class TrainSpec(SpecModel):
    objective: Objective
    learning_rate: float = Field(gt=0.0, le=1.0)
    """Peak learning rate."""
    batch_size: int = Field(ge=1)
    """Samples per optimizer step, whatever the number of workers or micro-batches."""
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimizer steps; give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0.0)
    """Passes over the data; a last incomplete batch is left out, as in the paper's recipe."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of the samples."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        if (self.steps is None) == (self.epochs is None):
            found = "neither is" if self.steps is None else "both are"
            raise ValueError(f"give one of `steps` and `epochs`; {found} set")
        return self


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


class EvaluationSpec(SpecModel):
    benchmarks: tuple[BenchmarkSpec, ...] = Field(min_length=1)
    every: int | None = Field(default=None, ge=1)
    """Evaluate every so many steps. Step 0 (the base model) and the last step are always evaluated."""
    steps: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further steps to evaluate."""
    samplings: dict[Annotated[str, AfterValidator(_metric_name)], SamplingSpec] = Field(min_length=1)
    """Ways to sample, by name. The first one gives `eval/<benchmark>/accuracy`, any other
    `eval_<name>/<benchmark>/accuracy`."""

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
    """Most tokens in one forward pass of one worker."""
    pack_length: int = Field(default=512, ge=16)
    """Samples are packed into rows of this many tokens (longer where one sample is longer)."""
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at a time; as many as the cluster holds by default."""


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
    set: dict[str, Any] = {}
    """Dotted path of a trial's field to its value. A path that is also an axis is fixed in this variant."""


class SweepSpec(SpecModel):
    name: Name
    """Name of the MLflow experiment and of the figures."""
    description: str = ""
    trial: dict[str, Any]
    """The template every trial starts from: fields of a trial; axes and variants may give the rest."""
    axes: dict[str, tuple[Any, ...]] = {}
    """Dotted path of a trial's field to the values it takes; every combination is a trial."""
    variants: tuple[VariantSpec, ...] = ()
    execution: ExecutionSpec = ExecutionSpec()
    pool: PoolSpec = PoolSpec()
