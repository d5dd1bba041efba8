"""The training loop: batch, forward, loss, backward, clip, step, say what happened.

It calls no service: it yields events, and whoever runs it saves checkpoints and reports metrics. It owns the
denominator: the number of target tokens in the whole optimizer batch, over micro-batches and ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import MicroBatch, empty_micro_batch, micro_batches
from dft_sweeps.objectives import OBJECTIVES
from dft_sweeps.spec.models import TrainSpec
from dft_sweeps.training.optimizer import adamw, learning_rate
from dft_sweeps.training.order import batch_indices, total_steps
from dft_sweeps.training.sharding import Ranks


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
    """The loss or its gradient is not finite: the trial cannot go on."""


def train(
    policy: nn.Module,
    samples: Sequence[Sample],
    settings: TrainSpec,
    evaluate_at: frozenset[int],
    micro_batch_tokens: int,
    pack_length: int,
    ranks: Ranks,
) -> Iterator[StepDone | CheckpointReady]:
    """Trains `policy` in place.

    Args:
        evaluate_at: steps whose weights are announced; 0 is the initial policy.
        micro_batch_tokens: most tokens in one forward pass.
        pack_length: tokens in a packed row.

    Raises:
        NonFiniteError: names the step and its samples.
    """
    steps = total_steps(settings, len(samples))
    optimizer = adamw(policy, settings)
    objective = OBJECTIVES[settings.objective.kind]
    device = next(policy.parameters()).device
    seen_tokens = seen_samples = 0
    if 0 in evaluate_at:
        yield CheckpointReady(0)
    for step in range(1, steps + 1):
        started = time.perf_counter()
        indices = batch_indices(step, settings, len(samples))
        batch = [samples[index] for index in indices]
        mine, denominator = split_batch(batch, micro_batch_tokens, pack_length, ranks)
        sums = torch.zeros(4, device=device)
        for index, micro_batch in enumerate(mine):
            ranks.sync_gradients(policy, index == len(mine) - 1)
            # FSDP2 averages gradients over ranks; the denominator is already global.
            result = policy(micro_batch, objective, ranks.world_size / denominator)
            result.objective.backward()
            sums += torch.stack(result).detach()
        norm = ranks.clip_gradients(policy, settings.optimizer.clip_norm)
        sums = ranks.sum(sums)
        if not (math.isfinite(norm) and bool(sums.isfinite().all())):
            raise NonFiniteError(f"step {step}: loss or gradient is not finite; samples {indices}")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, settings.learning_rate, settings.schedule)
        optimizer.step()
        optimizer.zero_grad()
        seen_tokens += sum(len(sample.ids) for sample in batch)
        seen_samples += len(batch)
        metrics = _metrics(sums, denominator, ranks.world_size) | {
            "train/grad_norm": norm,
            "train/clipped": float(norm > settings.optimizer.clip_norm),
            "train/learning_rate": optimizer.param_groups[0]["lr"],
            "train/tokens_per_second": sum(len(s.ids) for s in batch) / (time.perf_counter() - started),
            "train/tokens": seen_tokens,
            "train/samples": seen_samples,
        }
        yield StepDone(step, metrics)
        if step in evaluate_at:
            yield CheckpointReady(step)


def split_batch(
    batch: Sequence[Sample], micro_batch_tokens: int, pack_length: int, ranks: Ranks
) -> tuple[list[MicroBatch], int]:
    """This rank's micro-batches of an optimizer batch, and the target tokens of the whole batch.

    Every rank can tell every rank's share, so they agree on the number of micro-batches without talking; a rank with
    fewer runs empty ones, or the others would wait for it for ever.

    Raises:
        ValueError: the batch has no target token at all.
    """
    shares = [
        micro_batches(batch[rank :: ranks.world_size], pack_length, micro_batch_tokens)
        for rank in range(ranks.world_size)
    ]
    denominator = sum(micro_batch.targets for share in shares for micro_batch in share)
    if denominator == 0:
        raise ValueError("an optimizer batch without a target token: every sample is prompt alone")
    mine = shares[ranks.rank]
    missing = max(map(len, shares)) - len(mine)
    return mine + [empty_micro_batch()] * missing, denominator


def _metrics(sums: Tensor, denominator: int, world_size: int) -> dict[str, float]:
    objective, nll, probability, entropy = sums.tolist()
    return {
        "train/objective": objective / world_size,  # each rank's share was scaled up for FSDP2's average
        "train/nll": nll / denominator,
        "train/mean_probability": probability / denominator,
        "train/entropy": entropy / denominator,
    }
