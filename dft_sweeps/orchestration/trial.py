"""One trial: the function Ray Tune schedules, and the function Ray Train runs on every worker of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.orchestration.mailbox import Checkpoint, CheckpointWritten, StepRow, StepRows, TrialFailed, TrialStarted
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.spec.models import ExecutionSpec, TrialSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray.actor import ActorHandle
    from transformers import PreTrainedTokenizerBase

    from dft_sweeps.data.encode import Sample
    from dft_sweeps.training.policy import Policy
    from dft_sweeps.training.sharding import Ranks

SEND_EVERY_S = 1.0
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
    evaluated_steps: tuple[int, ...]


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def drive_trial(config: dict[str, Any], jobs: dict[str, TrialJob], mailbox: ActorHandle) -> None:
    """The Tune trial function: runs the trial `config["training_id"]` as a Ray Train run and waits for it."""
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

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


def run_worker(config: dict[str, Any]) -> None:
    """The training function on every Ray Train worker."""
    import torch
    from ray import train as ray_train
    from transformers import AutoTokenizer

    from dft_sweeps.data.encode import EncodedData
    from dft_sweeps.training.loop import CheckpointReady, train
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks

    job: TrialJob = config["job"]
    torch.set_num_threads(job.execution.cpus_per_worker)
    ranks = Ranks.current()
    reporter = _Reporter(job, config["mailbox"]) if ranks.rank == 0 else None
    if reporter:
        reporter.started(config["driver_started_ms"])
    samples = EncodedData.load(Path(job.data_file)).samples
    tokenizer = AutoTokenizer.from_pretrained(job.model_directory)
    policy = load_policy(Path(job.model_directory), job.spec.model.dtype)
    if job.execution.gpus_per_worker:
        policy.to(ray_train.torch.get_device())
    policy = ranks.shard(policy)
    events = train(
        policy,
        samples,
        job.spec.train,
        frozenset(job.evaluated_steps),
        job.execution.micro_batch_tokens,
        job.execution.pack_length,
        ranks,
    )
    for event in events:
        if isinstance(event, CheckpointReady):
            checkpoint = _write_checkpoint(job, event.step, policy, samples, tokenizer, ranks)
            if reporter:
                reporter.checkpoint(checkpoint)
            ray_train.report({"step": event.step})
        elif reporter:
            reporter.step(event.step, event.metrics)
    if reporter:
        reporter.finish()


def _write_checkpoint(
    job: TrialJob,
    step: int,
    policy: Policy,
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    ranks: Ranks,
) -> Checkpoint:
    from dft_sweeps.training.checkpoint import make_canary, save_checkpoint

    canary = make_canary(policy, samples)
    if step == 0:  # the base model is evaluated where it lies
        return Checkpoint(0, job.model_directory, job.base_digest, canary)
    directory = TrialFiles(Path(job.storage), job.training_id).checkpoint_directory(step)
    return Checkpoint(step, str(directory), save_checkpoint(policy, tokenizer, canary, directory, ranks), canary)


class _Reporter:
    """Rank 0's way out: rows go to the trial's own file first, then to the mailbox, about once a second.

    A checkpoint is announced only after every row before it is in the file and in the mailbox.
    """

    def __init__(self, job: TrialJob, mailbox: ActorHandle) -> None:
        self._training_id = job.training_id
        self._mailbox = mailbox
        self._files = TrialFiles(Path(job.storage), job.training_id)
        self._files.fresh()
        self._rows: list[StepRow] = []
        self._sent_at = 0.0

    def started(self, driver_started_ms: int) -> None:
        self._put(TrialStarted(self._training_id, driver_started_ms, now_ms()))

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self._rows.append(StepRow(step, now_ms(), metrics))
        if time.monotonic() - self._sent_at >= SEND_EVERY_S:
            self._flush()

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        self._flush()
        self._files.add_checkpoint(checkpoint)
        self._put(CheckpointWritten(self._training_id, checkpoint))

    def finish(self) -> None:
        self._flush()
        self._files.finish()

    def _flush(self) -> None:
        if self._rows:
            self._files.append_rows(self._rows)
            self._put(StepRows(self._training_id, tuple(self._rows)))
            self._rows = []
        self._sent_at = time.monotonic()

    def _put(self, event: Any) -> None:
        import ray

        ray.get(self._mailbox.put.remote(event))
