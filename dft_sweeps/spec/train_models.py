"""The part of a trial's spec that says how the policy is trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dft_sweeps.spec.objective_models import Objective
from dft_sweeps.spec.spec_model import SpecModel
from dft_sweeps.spec.yaml_lines import shown

MOST_STEPS = 10_000_000
"""Longer trials are a slip of the keyboard, and the plan lists the steps it evaluates."""


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


class NormalizationSpec(SpecModel):
    """What the sum of the targets' losses is divided by, as mathematics: whatever our own workers and packing are."""

    kind: Literal["token_mean", "micro_batch_means"] = "token_mean"
    """`token_mean`: the mean over all targets of the batch. `micro_batch_means`: the mean over micro-batches of each
    one's mean, as published, so that targets of a micro-batch with short samples weigh more."""
    micro_batch_samples: int = Field(default=4, ge=1)
    """Samples per micro-batch, where that matters; published: 4."""
    ranks: int = Field(default=8, ge=1)
    """Workers whose micro-batches these are, where that matters; published: 8."""
    sum_micro_batches: bool = False
    """The gradient is the sum over the micro-batches of a rank, not their mean, as in the published trainer (verl
    #3332). AdamW all but cancels the factor, but the gradient is clipped with it: with 8 micro-batches `clip_norm` 1.0
    acts as 0.125."""

    @property
    def by_micro_batch(self) -> bool:
        """Whether micro-batches matter at all."""
        return self.kind == "micro_batch_means" or self.sum_micro_batches


def _target(value: Any) -> Any:
    if value == "all-linear":
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError(f"should be 'all-linear' or a list of names, found {shown(value)}")


class LoraSpec(SpecModel):
    """Low-rank adapters; the other parameters stay as they are. Rank and alpha as in the paper's appendix A.6."""

    kind: Literal["lora"]
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0.0)
    """The adapter's output is scaled by alpha / rank."""
    target: Annotated[Literal["all-linear"] | tuple[str, ...], BeforeValidator(_target)] = "all-linear"
    """Modules that get adapters: every linear one but the head, or a list of names, e.g. [q_proj, v_proj]."""


class TrainSpec(SpecModel):
    objective: Objective
    learning_rate: float = Field(gt=0.0, le=1.0)
    """Peak learning rate."""
    batch_size: int = Field(ge=1)
    """Samples per optimizer step, whatever the number of workers or micro-batches."""
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimizer steps; give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0.0, le=MOST_STEPS)
    """Passes over the data; a last incomplete batch is left out, as in the paper's recipe."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of the samples, and of an adapter's initial matrices."""
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    normalization: NormalizationSpec = NormalizationSpec()
    adapter: LoraSpec | None = None
    """Train adapters instead of all parameters."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        if (self.steps is None) == (self.epochs is None):
            found = "neither is" if self.steps is None else "both are"
            raise ValueError(f"give one of `steps` and `epochs`; {found} set")
        return self

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TrainSpec:
        normalization = self.normalization
        each = normalization.ranks * normalization.micro_batch_samples
        if normalization.by_micro_batch and self.batch_size % each:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of {each}, which is normalization.ranks "
                f"{normalization.ranks} times normalization.micro_batch_samples {normalization.micro_batch_samples}"
            )
        return self
