"""One trial as Ray Tune schedules it: a driver that has Ray Train run `dft_sweeps.orchestration.worker`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.orchestration.mailbox import TrialFailed, now_ms
from dft_sweeps.spec.models import ExecutionSpec, TrialSpec

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_WRAPPING = ("controller_failure", "health_check_failure", "cause")


@dataclass(frozen=True)
class TrialJob:
    """What a trial's processes need, as plain data."""

    training_id: str
    attempt: str
    """Tells apart attempts at the same trial: Ray Train silently resumes a run whose name it knows."""
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

    @property
    def last_step(self) -> int:
        return max(self.evaluated_steps)

    def has_histogram(self, step: int) -> bool:
        """Whether the histogram of target probabilities is taken at `step`."""
        every = self.spec.evaluation.histogram.every
        return step % every == 0 if every else step in self.evaluated_steps


def drive_trial(config: dict[str, Any], jobs: dict[str, TrialJob], mailbox: ActorHandle) -> None:
    """The Tune trial function: runs the trial `config["training_id"]` as a Ray Train run and waits for it."""
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from dft_sweeps.orchestration.worker import run_worker

    job = jobs[config["training_id"]]
    execution = job.execution
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job, "mailbox": mailbox, "driver_started_ms": now_ms()},
        scaling_config=ScalingConfig(
            num_workers=execution.workers,
            use_gpu=execution.gpus_per_worker > 0,
            resources_per_worker={"CPU": execution.cpus_per_worker}
            | ({"GPU": execution.gpus_per_worker} if execution.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=f"{job.training_id}-{job.attempt}",
            storage_path=str(Path(job.storage) / "ray" / "train"),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        ray.get(mailbox.put.remote(TrialFailed(job.training_id, failure_reason(error))))
        raise


def failure_reason(error: BaseException) -> str:
    """The innermost reason of an error that Ray has wrapped, in one line."""
    while inner := _wrapped(error):
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _wrapped(error: BaseException) -> BaseException | None:
    """The error inside an error: by worker rank, of the controller, of a remote task, or plainly its cause."""
    failures = getattr(error, "worker_failures", None) or {}
    inner = [*failures.values(), *(getattr(error, name, None) for name in _WRAPPING)]
    return next((found for found in inner if isinstance(found, BaseException)), error.__cause__)
