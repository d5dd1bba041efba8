"""One trial as Ray Tune schedules it: a driver that has Ray Train's workers run `dft_sweeps.orchestration.worker`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dft_sweeps.orchestration.mailbox import TrialInterrupted
from dft_sweeps.orchestration.warm_workers import WorkerGroup
from dft_sweeps.spec.models import ExecutionSpec, TrialSpec

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_WRAPPING = ("controller_failure", "health_check_failure", "cause")


@dataclass(frozen=True)
class TrialJob:
    """What a trial's processes need, as plain data."""

    training_id: str
    spec: TrialSpec
    execution: ExecutionSpec
    storage: str
    model_directory: str
    base_digest: str
    data_file: str
    data_digest: str
    evaluated_steps: tuple[int, ...]
    """Steps to write checkpoints of; the last step is always one."""
    template: str
    """Of the questions that its checkpoints are asked."""
    trusted: bool = False
    """Whether the model's own code is run."""
    until: int | None = None
    """The evaluated step at which it is parked: its state is saved, and its workers take another job. None: it is
    trained to its end."""
    after: int = 0
    """The step at which it was parked before; 0 for none."""

    @property
    def last_step(self) -> int:
        return max(self.evaluated_steps)

    @property
    def parks(self) -> bool:
        return self.until is not None and self.until < self.last_step

    def has_histogram(self, step: int) -> bool:
        """Whether the histogram of target probabilities is taken at `step`."""
        every = self.spec.evaluation.histogram.every
        return step % every == 0 if every else step in self.evaluated_steps


_group: WorkerGroup | None = None
"""The workers of this process' trials. Tune uses a driver's process again for the next trial, which gets new ones where
these have ended."""


def drive_trial(config: dict[str, Any], jobs: dict[str, TrialJob], mailbox: ActorHandle) -> None:
    """The Tune trial function: has this driver's workers do the job `config` (`halving.Job`), and waits for it."""
    import ray
    from ray import tune

    global _group
    job = replace(jobs[config["training_id"]], until=config["until"], after=config["after"])
    if _group is None or not _group.claim():
        _group = WorkerGroup(job.execution, job.storage, mailbox)
    try:
        _group.train(job)
    except Exception as error:
        _group = None
        ray.get(mailbox.put.remote(TrialInterrupted(job.training_id, failure_reason(error))))
        raise  # to Tune, which tries again
    tune.report({"trained": True})  # Tune prints a line for a trial that has reported nothing


def failure_reason(error: BaseException) -> str:
    """The innermost reason of an error that Ray has wrapped, in one line; of a process that died, where and why."""
    while inner := _wrapped(error):
        error = inner
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    told = [line for line in more if line.startswith("ip:") or "because" in line] if "died" in first else []
    return f"{type(error).__name__}: {' '.join([first, *told])}"


def _wrapped(error: BaseException) -> BaseException | None:
    """The error inside an error: by worker rank, of the controller, of a remote task, or plainly its cause."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = [*failures.values(), *(getattr(error, name, None) for name in _WRAPPING)]
    return next((found for found in inner if isinstance(found, BaseException)), error.__cause__)
