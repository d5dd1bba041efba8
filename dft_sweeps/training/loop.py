"""The training loop: batch, forward, loss, backward, clip, step, say what happened.

It calls no service: it yields events, and whoever runs it saves checkpoints and states and reports metrics.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dft_sweeps.data.encode import Sample
from dft_sweeps.objectives import make_objective
from dft_sweeps.spec.models import ExecutionSpec, PsftObjective, TrainSpec
from dft_sweeps.training.batch import multiplicity, normalized, split_batch
from dft_sweeps.training.logprobs import Column, share_logprobs
from dft_sweeps.training.optimizer import learning_rate
from dft_sweeps.training.order import batch_indices, total_steps
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState


@dataclass(frozen=True)
class StepDone:
    """Optimizer step `step` (from 1) was taken; `metrics` by their MLflow names."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class CheckpointReady:
    """The policy now holds the weights after `step` optimizer steps, and they are due for evaluation."""

    step: int


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not finite: the trial cannot go on.

    `record` tells the batch: step, indices and hashes of its samples, and what was not finite.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(f"step {record['step']}: loss or gradient is not finite; samples {record['samples']}")
        self.record = record

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[dict[str, Any]]]:
        return NonFiniteError, (self.record,)


def train(
    state: TrainState,
    data: Sequence[Sample],
    evaluate_at: frozenset[int],
    execution: ExecutionSpec,
    ranks: Ranks,
    reference: Column | None = None,
) -> Iterator[StepDone | CheckpointReady]:
    """Trains `state.policy` in place, from step `state.step` on. Between events the state may be saved.

    Args:
        evaluate_at: steps whose weights are announced; 0 is the initial policy.
        reference: the reference's log-probabilities of the targets of `data`, for objectives that ask for them.

    Raises:
        NonFiniteError: names the step and its samples. The step is not taken.
    """
    policy, optimizer, settings = state.policy, state.optimizer, state.settings
    steps = total_steps(settings, len(data))
    objective = make_objective(**settings.objective.model_dump())
    if state.step == 0 and 0 in evaluate_at:
        yield CheckpointReady(0)
    for step in range(state.step + 1, steps + 1):
        started = time.perf_counter()
        indices = batch_indices(step, settings, len(data))
        batch = [data[index] for index in indices]
        if isinstance(settings.objective, PsftObjective):
            remember_old_policy(state, data, settings.objective.refresh, execution, ranks)
        batch = with_columns(batch, indices, step, state, reference)
        # FSDP2 averages gradients over ranks; the scales are already those of the whole batch.
        batch = normalized(batch, settings.normalization, ranks.world_size)
        micro_batches = split_batch(batch, policy, execution, ranks)
        sums: Tensor | float = 0.0
        for index, micro_batch in enumerate(micro_batches):
            ranks.sync_gradients(policy, index == len(micro_batches) - 1)
            result = policy(micro_batch, objective)
            result.objective.backward()
            sums = sums + torch.stack(result).detach()
        norm = ranks.clip_gradients(policy, settings.optimizer.clip_norm)
        values = ranks.sum(sums).tolist()
        if not all(map(math.isfinite, (norm, *values))):
            raise NonFiniteError(identity_of(step, indices, batch, norm, values))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, settings.learning_rate, settings.schedule)
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(len(sample.ids) for sample in batch)
        state.step, state.tokens, state.samples = step, state.tokens + tokens, state.samples + len(batch)
        metrics = _means(values, batch, settings, ranks) | {
            "train/grad_norm": norm,
            "train/clipped": float(norm > settings.optimizer.clip_norm),
            "train/learning_rate": optimizer.param_groups[0]["lr"],
            "train/tokens_per_second": tokens / (time.perf_counter() - started),
            "train/tokens": state.tokens,
            "train/samples": state.samples,
            "train/peak_memory_gib": peak_memory_gib(),
        }
        yield StepDone(step, metrics)
        if step in evaluate_at:
            yield CheckpointReady(step)


def _means(values: Sequence[float], batch: Sequence[Sample], settings: TrainSpec, ranks: Ranks) -> dict[str, float]:
    """Means over the batch; the objective as it is normalised, without the published recipe's multiplicity."""
    targets = sum(sample.targets for sample in batch)
    metrics = {
        "train/objective": values[0] / (ranks.world_size * multiplicity(len(batch), settings.normalization)),
        "train/nll": values[1] / targets,
        "train/mean_probability": values[2] / targets,
        "train/entropy": values[3] / targets,
    }
    return metrics | ({"train/reference_kl": values[4] / targets} if settings.objective.kind == "asft" else {})


def with_columns(
    batch: Sequence[Sample], indices: Sequence[int], step: int, state: TrainState, reference: Column | None
) -> list[Sample]:
    """The samples with the reference's and the old policy's log-probabilities, where there are any."""
    columns: dict[str, Sequence[Any]] = {}
    if reference is not None:
        columns["reference_logp"] = [reference[index] for index in indices]
    if step in state.old_logp:
        ends = np.cumsum([sample.targets for sample in batch])
        columns["old_logp"] = np.split(state.old_logp[step].numpy(), ends[:-1])
    return [
        replace(sample, columns={name: column[place] for name, column in columns.items()})
        for place, sample in enumerate(batch)
    ]


def remember_old_policy(
    state: TrainState, data: Sequence[Sample], refresh: int, execution: ExecutionSpec, ranks: Ranks
) -> None:
    """Every `refresh` steps the policy becomes the old policy of as many steps: keeps its log-probabilities of their
    batches."""
    if state.step % refresh:
        return
    last = min(state.step + refresh, total_steps(state.settings, len(data)))
    state.old_logp = {}
    for step in range(state.step + 1, last + 1):
        batch = [data[index] for index in batch_indices(step, state.settings, len(data))]
        pieces = share_logprobs(state.policy, batch, execution, ranks)
        state.old_logp[step] = torch.from_numpy(np.concatenate(pieces))


def identity_of(
    step: int, indices: Sequence[int], batch: Sequence[Sample], norm: float, values: Sequence[float]
) -> dict[str, Any]:
    """What there is to know of a batch whose loss or gradient is not finite, for JSON."""
    names = ("objective", "nll", "probability", "entropy", "row_term")
    return {
        "step": step,
        "samples": list(indices),
        "sha256": [hashlib.sha256(np.array(sample.ids, dtype="<i4").tobytes()).hexdigest() for sample in batch],
        "gradient_norm": repr(norm),
        "sums": {name: repr(value) for name, value in zip(names, values, strict=True)},
    }


def reset_peak_memory() -> None:
    """Has `peak_memory_gib` begin anew. Only GPUs and Linux can: elsewhere a process' peak is that of its life."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gib() -> float:
    """Most memory used so far: allocated on the GPU, or resident in this process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
