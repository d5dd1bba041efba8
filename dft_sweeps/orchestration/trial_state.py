"""How far the coordinator knows a trial to be. Lost with it: a later coordinator reads MLflow and the trial's files."""

from __future__ import annotations

from dataclasses import dataclass, field

from dft_sweeps.orchestration.mailbox import StepRow, TrialStarted
from dft_sweeps.orchestration.prepare import PreparedTrial


@dataclass
class TrialState:
    prepared: PreparedTrial
    trained: bool = False
    """Whether it will not train any more."""
    stopped_at: int | None = None
    """The rung at which its scheduler stopped it."""
    out: bool = False
    """Whether its scheduler knows that it has failed."""
    outstanding: dict[int, str] = field(default_factory=dict)
    """Steps whose evaluation was asked for and has not landed, with the digests of their weights."""
    evaluated: set[int] = field(default_factory=set)
    up: bool = False
    """Whether workers have begun its present job."""
    measured: bool = False
    """Whether a row of its present job has come."""
    interruption: str = ""
    """Why its last attempt ended, if that was before its time."""
    error: str | None = None
    ended: bool = False
    last_accuracy: str = ""
    started_ms: int = 0
    """When its driver was started; 0 if it did not train."""
    first_step: int = 1
    """Of its present attempt."""
    shown_at: float = 0.0

    def begin_attempt(self, event: TrialStarted) -> None:
        self.started_ms, self.first_step = event.driver_started_ms, event.resumed_at + 1
        self.interruption = ""
        for step in [step for step in self.outstanding if step > event.resumed_at]:
            del self.outstanding[step]  # its weights are made again

    @property
    def due(self) -> set[int]:
        """Steps that it must have been evaluated at when it ends."""
        last = self.prepared.facts.steps if self.stopped_at is None else self.stopped_at
        return {step for step in self.prepared.evaluated_steps if step <= last}

    def progress(self, row: StepRow) -> str:
        """In words, after an optimizer step."""
        metrics = row.metrics
        return (
            f"step {row.step}/{self.prepared.facts.steps}  objective {metrics['train/objective']:.4f}  "
            f"nll {metrics['train/nll']:.4f}  {metrics['train/tokens_per_second']:,.0f} tokens/s"
            + (f"  last accuracy {self.last_accuracy}" if self.last_accuracy else "")
        )
