"""Searches: where a sweep's trials are beside its axes. Points of a space are drawn at random, or proposed by what
trials before them have shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dft_sweeps.spec.spec_model import SpecModel


class Choice(SpecModel):
    """One of these values."""

    kind: Literal["choice"]
    values: tuple[Any, ...]

    @model_validator(mode="after")
    def _of_several(self) -> Choice:
        if len(self.values) < 2:
            raise ValueError(f"a choice is one of at least two values; found {len(self.values)}")
        return self


class Uniform(SpecModel):
    """A number from `low` to `high`."""

    kind: Literal["uniform"]
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, not below high, which is {self.high}")
        return self


class LogUniform(SpecModel):
    """A number from `low` to `high` whose logarithm is uniform, as suits learning rates."""

    kind: Literal["log_uniform"]
    low: float = Field(gt=0.0)
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> LogUniform:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}, not below high, which is {self.high}")
        return self


Domain = Annotated[Choice | Uniform | LogUniform, Field(discriminator="kind")]


class GridSearch(SpecModel):
    """Every combination of the axes' values, and nothing else."""

    kind: Literal["grid"] = "grid"


class _SpaceSearch(SpecModel):
    trials: int = Field(ge=1)
    """Points of the space, for every variant and every combination of the axes' values."""
    seed: int = Field(default=0, ge=0)
    space: dict[str, Domain] = Field(min_length=1)
    """Dotted path of a trial's field to the values it may take."""


class RandomSearch(_SpaceSearch):
    """Points drawn at random, the same for every variant and every combination of the axes' values."""

    kind: Literal["random"]


class TpeSearch(_SpaceSearch):
    """Points proposed by Optuna's tree-structured Parzen estimator from the accuracy of the trials before them, for
    every variant and combination of the axes' values apart."""

    kind: Literal["tpe"]
    batch: int = Field(default=4, ge=1)
    """Points proposed at a time, from all that finished before; the first of them are drawn at random."""
    sampling: str | None = None
    """The sampling whose macro-averaged accuracy at a trial's last step is made large; the first by default.
    Where questions are held out for selection, the accuracy on these."""

    @model_validator(mode="after")
    def _learns_from_trials(self) -> TpeSearch:
        if self.batch >= self.trials:
            raise ValueError(
                f"trials is {self.trials} and batch {self.batch}, so that no point is proposed from others' accuracy; "
                "choose a batch below trials, or kind: random"
            )
        return self


Search = Annotated[GridSearch | RandomSearch | TpeSearch, Field(discriminator="kind")]
