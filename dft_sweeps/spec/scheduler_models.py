"""Schedulers: which trials of a sweep are trained to their end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dft_sweeps.spec.spec_model import SpecModel


class FifoScheduler(SpecModel):
    """Every trial is trained to its end, in the order of the spec: whole curves are the product."""

    kind: Literal["fifo"] = "fifo"


class AshaScheduler(SpecModel):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934, algorithm 2) on evaluation accuracy: at every
    rung the trials wait, without workers, until they are among the best `1 / reduction_factor` there."""

    kind: Literal["asha"]
    rungs: tuple[int, ...] = Field(min_length=1)
    """Optimizer steps, below every trial's last, at which checkpoints are evaluated and verdicts fall."""
    reduction_factor: float = Field(default=3.0, gt=1.0)
    sampling: str | None = None
    """The sampling whose macro-averaged accuracy decides, of held-out questions where there are some; the first by
    default."""
    apart: tuple[str, ...] = ()
    """Axes (dotted paths, or ``variant``) whose values do not compete: each of their combinations has rungs of its
    own."""

    @model_validator(mode="after")
    def _rungs_rise(self) -> AshaScheduler:
        if self.rungs[0] < 1 or any(low >= high for low, high in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(
                f"rungs are optimizer steps from 1 on, each above the one before; found {list(self.rungs)}"
            )
        return self


Scheduler = Annotated[FifoScheduler | AshaScheduler, Field(discriminator="kind")]
