"""A trial on every one of its workers: train, report, and save what a killed trial goes on from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.orchestration.agreement import from_rank_0
from dft_sweeps.orchestration.engines import ADAPTER_DIRECTORY
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.provenance import continued, provenance
from dft_sweeps.orchestration.reporter import Reporter
from dft_sweeps.orchestration.resume import find_start
from dft_sweeps.orchestration.shared_reference import UNREADABLE, shared_reference
from dft_sweeps.orchestration.trial import TrialJob
from dft_sweeps.orchestration.trial_files import TrialFiles
from dft_sweeps.tracking import names

if TYPE_CHECKING:
    import torch
    from ray.actor import ActorHandle

    from dft_sweeps.data.encode import EncodedData, Sample
    from dft_sweeps.data.prompt_templates import Prompts
    from dft_sweeps.training.logprobs import Column
    from dft_sweeps.training.policy import Policy
    from dft_sweeps.training.sharding import Ranks
    from dft_sweeps.training.state import TrainState


def train_trial(job: TrialJob, mailbox: ActorHandle, driver_started_ms: int) -> None:
    """A worker's part in an attempt at a trial. All workers of a trial see its storage."""
    import torch
    from ray import train as ray_train

    from dft_sweeps.training.loop import NonFiniteError
    from dft_sweeps.training.sharding import Ranks

    torch.set_num_threads(job.execution.cpus_per_worker)
    ranks = Ranks.current()
    device = ray_train.torch.get_device() if job.execution.gpus_per_worker else torch.device("cpu")
    files = TrialFiles(Path(job.storage), job.training_id)
    reporter = Reporter(job.training_id, files, mailbox) if ranks.rank == 0 else None
    if reporter:
        reporter.up()
    with reporter.attempt() if reporter else contextlib.nullcontext():
        step = 0
        if reporter:
            start = find_start(files, job, ranks.world_size)
            reporter.started(driver_started_ms, start, job.spec.evaluation.histogram)
            step = start.step
        step = from_rank_0(step, ranks, device)
        try:
            with ThreadPoolExecutor(1, "checkpoint") as writer:
                _Attempt.load(job, files, ranks, device, reporter, step, writer).train()
        except NonFiniteError as error:
            if reporter:
                reporter.non_finite(error.record)
            return
        if reporter and job.parks:
            reporter.flush()
        elif reporter:
            reporter.finish()


@dataclass
class _Attempt:
    """One worker's part in an attempt at a trial."""

    job: TrialJob
    files: TrialFiles
    ranks: Ranks
    device: torch.device
    reporter: Reporter | None
    """Rank 0's."""
    data: Sequence[Sample]
    prompts: Prompts
    reference: Column | None
    state: TrainState
    provenance: dict[str, str]
    saved_at: float
    writer: Executor
    """Of checkpoints, beside training."""
    announced: Future[None] | None = None
    """Of the last checkpoint, until it was awaited. On rank 0."""
    handing_over_s: float = 0.0
    """Time in which training stood still for checkpoints."""

    @classmethod
    def load(
        cls,
        job: TrialJob,
        files: TrialFiles,
        ranks: Ranks,
        device: torch.device,
        reporter: Reporter | None,
        step: int,
        writer: Executor,
    ) -> _Attempt:
        """Reads model, data and reference, and the state of `step` unless that is 0."""
        from dft_sweeps.data.prompt_templates import Prompts, read_tokenizer
        from dft_sweeps.objectives import make_objective
        from dft_sweeps.training.policy import load_policy
        from dft_sweeps.training.state import TrainState, read_header

        spec = job.spec
        data = _read_data(Path(job.data_file))
        directory, trusted = Path(job.model_directory), job.trusted
        prompts = Prompts(read_tokenizer(directory, trusted), job.template)
        policy = ranks.shard(load_policy(directory, spec.model, spec.train, job.execution, device, trusted))
        reference = None
        if "reference_logp" in make_objective(**spec.train.objective.model_dump()).needs:
            reference = shared_reference(job, policy, data, ranks, reporter.note if reporter else None)
        tags = provenance(policy, spec.model, job.execution, ranks.world_size)
        state = TrainState(policy, spec.train)
        if step:
            state.load(files.resume_directory, ranks)
            header = read_header(files.resume_directory)
            assert state.step == step and header is not None
            tags = continued(header.provenance, tags, step, promoted=step == job.after)
        if reporter:
            reporter.provenance(tags)
        return cls(job, files, ranks, device, reporter, data, prompts, reference, state, tags, time.monotonic(), writer)

    def train(self) -> None:
        if self.job.parks and self.state.step >= (self.job.until or 0):
            return  # an earlier attempt came so far
        began = time.monotonic()
        self._steps()
        self._await_checkpoint()
        if self.reporter:
            self.reporter.handed_over(self.handing_over_s, time.monotonic() - began)

    def _steps(self) -> None:
        from dft_sweeps.training.loop import StepDone, train

        evaluated = frozenset(self.job.evaluated_steps)
        for event in train(self.state, self.data, evaluated, self.job.execution, self.ranks, self.reference):
            if isinstance(event, StepDone):
                metrics = event.metrics | self._histogram(event.step)
                if self.reporter:
                    self.reporter.step(event.step, metrics)
                if event.step in evaluated:
                    continue  # its checkpoint comes first
            else:
                self._checkpoint(event.step)
            if self.job.parks and event.step == self.job.until:
                return self._save()
            if 0 < event.step < self.job.last_step and self._save_is_due():
                self._save()

    def _histogram(self, step: int) -> dict[str, float]:
        """Empty where none is wanted. Collective."""
        from dft_sweeps.training.histogram import probability_histogram

        if not self.job.has_histogram(step):
            return {}
        wanted = self.job.spec.evaluation.histogram
        shares = probability_histogram(
            self.state.policy, self.data, wanted.samples, wanted.edges, self.job.execution, self.ranks
        )
        return {names.probability_bin(index): share for index, share in enumerate(shares)}

    def _checkpoint(self, step: int) -> None:
        """Has the weights of `step` written. Collective."""
        self._await_checkpoint()
        began = time.monotonic()
        written = _write_checkpoint(self.job, step, self.state.policy, self.data, self.prompts, self.ranks, self.writer)
        if self.reporter:
            self.announced = self.writer.submit(self._announce, self.reporter, written)
        self.handing_over_s += time.monotonic() - began
        if step == 0 and (histogram := self._histogram(0)) and self.reporter:
            self.reporter.step(0, histogram)

    @staticmethod
    def _announce(reporter: Reporter, written: Future[Checkpoint]) -> None:
        """In the writer's thread, where the checkpoint is written before."""
        reporter.checkpoint(written.result())

    def _await_checkpoint(self) -> None:
        """Returns when the last checkpoint is written and announced."""
        if self.announced:
            began = time.monotonic()
            self.announced.result()
            self.announced = None
            self.handing_over_s += time.monotonic() - began

    def _save_is_due(self) -> bool:
        every = self.job.execution.save_every_s
        if not every:
            return True
        return bool(from_rank_0(time.monotonic() - self.saved_at >= every, self.ranks, self.device))

    def _save(self) -> None:
        """Saves the state, whose rows and checkpoints are on the disk before it is. Collective."""
        self._await_checkpoint()
        if self.reporter:
            self.reporter.flush()
        self.state.save(self.files.resume_directory, self.ranks, self.provenance)
        self.saved_at = time.monotonic()


def _read_data(path: Path) -> EncodedData:
    from dft_sweeps.data.encode import EncodedData

    try:
        return EncodedData.load(path)
    except UNREADABLE as error:
        raise RuntimeError(f"{path} is damaged; remove it, and it is written again ({error})") from error


def _write_checkpoint(
    job: TrialJob,
    step: int,
    policy: Policy,
    data: Sequence[Sample],
    prompts: Prompts,
    ranks: Ranks,
    writer: Executor,
) -> Future[Checkpoint]:
    """The checkpoint of `step`, which `writer` may still have to write. Collective; other ranks than 0 leave it be."""
    from dft_sweeps.training.adapter_files import save_adapter
    from dft_sweeps.training.checkpoint import make_canary, save_checkpoint, snapshot, write_checkpoint

    canary = make_canary(policy, data)
    if step == 0:  # the base model is evaluated where it lies
        return writer.submit(Checkpoint, 0, job.model_directory, job.base_digest, canary)
    directory = TrialFiles(Path(job.storage), job.training_id).checkpoint_directory(step)
    if job.spec.train.adapter is not None:
        digest = save_checkpoint(policy, prompts, canary, directory, ranks)
        save_adapter(policy, job.base_digest, canary, directory / ADAPTER_DIRECTORY, ranks)
        return writer.submit(Checkpoint, step, str(directory), digest, canary)
    weights = snapshot(policy, ranks)

    def write() -> Checkpoint:
        digest = write_checkpoint(policy, weights, prompts, canary, directory) if ranks.rank == 0 else ""
        return Checkpoint(step, str(directory), digest, canary)

    return writer.submit(write)
