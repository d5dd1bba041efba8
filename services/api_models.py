"""What the sweep API takes and gives."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Override = Annotated[str, Field(max_length=4096)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class SpecBody(_Body):
    """A sweep's spec."""

    spec: str = Field(max_length=200_000)
    """The spec file's text, as YAML. Paths in it are those of the cluster, from the root; it extends no other file."""
    set: list[Override] = Field(default=[], max_length=100)
    """Overrides of fields, e.g. `trial.train.steps=20`."""
    name: str | None = Field(default=None, max_length=64)
    """Another name for the sweep."""

    @property
    def overrides(self) -> tuple[str, ...]:
        return (*self.set, *([f"name={self.name}"] if self.name is not None else []))


class RerunBody(_Body):
    """What of a recorded sweep to run again; what is missing of all of it by default."""

    failed: bool = False
    """Only trials that failed or were killed."""
    cells: list[Override] = Field(default=[], max_length=100)
    """Only trials with these values, e.g. `train.learning_rate=1e-4,train.objective.kind=dft`."""
    figure: int | None = Field(default=None, ge=1, le=1000)
    """Only if the sweep makes this figure of the paper, by its name."""
    fresh: bool = False
    """Run finished trials again too, from step 0 and in new runs."""
    seeds: int | None = Field(default=None, ge=1, le=1000)
    """Give every cell so many seeds in all: another, larger sweep."""


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Health(_Answer):
    status: str
    version: str


class Submission(_Answer):
    """What became of a submitted spec."""

    sweep_id: str
    submission_id: str
    """Of the Ray job."""
    status: str
    """Of the job: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    created: bool
    """False where this very sweep runs already, or has nothing left to do."""


class Job(_Answer):
    """The newest job of a sweep, as Ray knows it. One that waits for its turn is PENDING."""

    submission_id: str
    attempt: int
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED; GONE where its cluster is no more."""
    exit_code: int | None
    """0: every trial finished; 1: a trial failed; 2: the spec is wrong; 3: a service could not be reached. None while
    it runs, and where it was stopped or killed."""
    started_ms: int | None
    ended_ms: int | None


class SweepSummary(_Answer):
    sweep_id: str
    name: str
    status: str
    """As MLflow has it: RUNNING, FINISHED, FAILED or KILLED. Before it has anything of the sweep PENDING, or, where its
    job has ended, the status of that."""
    started: str | None
    """ISO 8601."""
    trials: int
    finished: int
    to_propose: int
    """Trials that its search has still to propose, beside these."""
    run_id: str | None
    """Of MLflow."""
    experiment_id: str | None
    job: Job | None
    """None for a sweep that was not submitted to this cluster, or before the cluster was started anew."""


class SweepStatus(_Answer):
    sweep: SweepSummary
    trials: list[dict[str, Any]]
    """As `dft-sweeps status --json` has them; empty before MLflow has anything of the sweep."""


class Cancelled(_Answer):
    sweep_id: str
    submission_id: str | None
    status: str
    """Of its newest job, which has ended; NONE where there is no job."""
    cancelled: bool
    """Whether there was a job to end."""


class Problem(_Answer):
    """Why something was refused or failed."""

    error: str
    place: str | None = None
    """Where in the spec or the request."""
    hint: str | None = None
    """What would help."""
