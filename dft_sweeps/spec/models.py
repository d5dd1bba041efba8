"""The models of the spec language: what a user can write in a sweep spec, and nothing else.

Every model is frozen and refuses unknown fields. Fields of `model`, `data` and `train` decide the mathematics of a
trial and enter its `training_id`; `evaluation` decides what is measured; `execution` and `pool` decide only where and
how fast it runs, `cost` and `budget` what it may cost (`dft_sweeps.spec.identity`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dft_sweeps.spec.cost_models import BudgetSpec, CostSpec
from dft_sweeps.spec.data_models import (
    ArithmeticSource,
    DataSpec,
    FileSource,
    HubSource,
    ModelSpec,
    NuminaMathSource,
    Source,
    TemplateName,
)
from dft_sweeps.spec.evaluation_models import (
    AdaptiveSpec,
    BenchmarkSpec,
    EvaluationSpec,
    HistogramSpec,
    SamplingSpec,
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
from dft_sweeps.spec.scheduler_models import FifoScheduler, Scheduler
from dft_sweeps.spec.search_models import GridSearch, Search
from dft_sweeps.spec.spec_model import Name, SpecModel
from dft_sweeps.spec.train_models import (
    MOST_STEPS,
    LoraSpec,
    NormalizationSpec,
    OptimizerSpec,
    ScheduleSpec,
    TrainSpec,
)

__all__ = [
    "MOST_STEPS",
    "AdaptiveSpec",
    "ArithmeticSource",
    "AsftObjective",
    "BenchmarkSpec",
    "BudgetSpec",
    "CostSpec",
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
    "TemplateName",
    "TrainSpec",
    "TrialSpec",
    "VariantSpec",
]


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
    max_failures: int = Field(default=3, ge=0)
    """How often a trial is taken up again, from its last saved state, after a process or node of it died."""

    @model_validator(mode="after")
    def _attends_where_it_can(self) -> ExecutionSpec:
        if self.attention in ("flash_attention_2", "flex_attention") and not self.gpus_per_worker:
            raise ValueError(f"attention {self.attention} needs gpus_per_worker of at least 1; auto works anywhere")
        return self


class PoolSpec(SpecModel):
    """The pool of evaluation engines."""

    replicas: int = Field(default=1, ge=1)
    """Engines; with `max_replicas`, the fewest."""
    max_replicas: int | None = Field(default=None, ge=1)
    """The most engines: further ones start while checkpoints wait, and end when none do."""
    cpus_per_engine: int = Field(default=1, ge=1)
    gpus_per_engine: int = Field(default=0, ge=0)
    """0 for engines on CPUs; several share an engine's layers by tensor parallelism."""
    tensor_parallel: int | None = Field(default=None, ge=1)
    """Processes that share an engine's layers, and its CPUs or GPUs; by default one for each GPU, one on CPUs."""
    adapters: int = Field(default=4, ge=0)
    """LoRA checkpoints that an engine serves side by side; with 0 they are merged and swapped in. Of no effect where
    no trial trains an adapter."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: int = Field(default=4096, ge=16)
    """Longest prompt plus completion an engine takes, in tokens."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Completions an engine generates side by side."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0, le=65536.0)
    """Memory for the KV cache of a CPU engine."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> PoolSpec:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, fewer than replicas, which is {self.replicas}")
        return self

    @model_validator(mode="after")
    def _parts_of_equal_size(self) -> PoolSpec:
        if self.gpus_per_engine and self.parts != self.gpus_per_engine:
            raise ValueError(f"tensor_parallel is {self.parts}, but engines have {self.gpus_per_engine} GPUs: one each")
        if self.cpus_per_engine % self.parts and not self.gpus_per_engine:
            raise ValueError(f"{self.cpus_per_engine} CPUs cannot be shared by {self.parts} processes evenly")
        return self

    @property
    def parts(self) -> int:
        """Processes of an engine."""
        return self.tensor_parallel or max(1, self.gpus_per_engine)


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
    search: Search = GridSearch()
    scheduler: Scheduler = FifoScheduler()
    execution: ExecutionSpec = ExecutionSpec()
    pool: PoolSpec = PoolSpec()
    cost: CostSpec = CostSpec()
    budget: BudgetSpec | None = None

    @model_validator(mode="after")
    def _money_has_a_price(self) -> SweepSpec:
        if self.budget and self.budget.money is not None and self.cost.price_per_gpu_hour is None:
            raise ValueError("budget.money needs cost.price_per_gpu_hour")
        return self
