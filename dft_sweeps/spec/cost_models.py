"""What a sweep is expected to cost, and what it may cost at most. Part of no id: neither changes a number it yields."""

from __future__ import annotations

from pydantic import Field, model_validator

from dft_sweeps.spec.spec_model import SpecModel

SLOWEST, MOST = 1e-3, 1e12
"""Beyond these a number is a slip of the keyboard, and a plan's sums would be infinite."""


class CostSpec(SpecModel):
    """What a plan reckons with where nothing was measured yet, and the price."""

    price_per_gpu_hour: float | None = Field(default=None, ge=0.0, le=MOST)
    """In any currency; money is then counted in it."""
    train_tokens_per_second: float | None = Field(default=None, ge=SLOWEST, le=MOST)
    """Tokens of samples (prompts and answers) that one worker trains on in a second, checkpoints included."""
    completion_tokens_per_second: float | None = Field(default=None, ge=SLOWEST, le=MOST)
    """Tokens that one evaluation engine generates in a second with a full batch."""
    tokens_per_completion: float | None = Field(default=None, gt=0.0, le=MOST)
    """Mean tokens of a completion; by default the most, the sampling's `max_new_tokens`."""
    start_s: float = Field(default=45.0, ge=0.0, le=MOST)
    """Seconds until Ray and the engines are up."""
    workers_start_s: float = Field(default=20.0, ge=0.0, le=MOST)
    """Seconds until the workers of a sweep's first trials are up; later trials find them up."""
    trial_start_s: float = Field(default=2.0, ge=0.0, le=MOST)
    """Seconds from there to a trial's first optimizer step: loading the model and the data."""


class BudgetSpec(SpecModel):
    """The most that a sweep may use, over all attempts at it. A plan that needs more is refused; a sweep that has used
    it up is stopped, and goes on from its checkpoints when it is run with a larger one."""

    gpu_hours: float | None = Field(default=None, gt=0.0)
    """GPUs held, by workers and engines, times hours."""
    cpu_hours: float | None = Field(default=None, gt=0.0)
    """CPU cores held, by workers and engines, times hours."""
    money: float | None = Field(default=None, gt=0.0)
    """GPU-hours at `cost.price_per_gpu_hour`."""

    @model_validator(mode="after")
    def _limits_something(self) -> BudgetSpec:
        if self.gpu_hours is self.cpu_hours is self.money is None:
            raise ValueError("give at least one of gpu_hours, cpu_hours and money")
        return self
