"""An optimizer batch: the factor on each sample's losses, and each rank's micro-batches.

The denominator has one owner, `normalized`. What it gives does not depend on how many ranks there are or how samples
are packed, the published recipe's means over micro-batches included: their micro-batches are the spec's, not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import MicroBatch, empty_micro_batch, micro_batches
from dft_sweeps.spec.models import ExecutionSpec, NormalizationSpec
from dft_sweeps.training.sharding import Ranks

SCALE = "scale"
"""The column with the factor on the loss of each target."""


class Attends(Protocol):
    padding_free: bool
    """Whether a row of many samples costs no more attention than the samples alone."""


def normalized(batch: Sequence[Sample], settings: NormalizationSpec, factor: float = 1.0) -> list[Sample]:
    """The samples of an optimizer batch with the column `scale`: the batch's loss is the sum of scale x loss.

    ``token_mean`` divides by the targets of the whole batch. ``micro_batch_means`` averages the means of the published
    run's micro-batches: rank r of R holds the samples r, r + R, ..., and splits them in order. `sum_micro_batches`
    multiplies by the number of micro-batches of a rank (`multiplicity`).

    Args:
        factor: on every scale.

    Raises:
        ValueError: the batch has no target token at all.
    """
    targets = np.array([sample.targets for sample in batch])
    if not targets.sum():
        raise ValueError("an optimizer batch without a target token: every sample is prompt alone")
    if settings.kind == "token_mean":
        scales = np.full(len(batch), 1.0 / targets.sum())
    else:
        index = np.arange(len(batch))
        rank, place = index % settings.ranks, index // settings.ranks
        group = rank + settings.ranks * (place // settings.micro_batch_samples)
        in_group = np.bincount(group, weights=targets)
        scales = 1.0 / (len(in_group) * np.maximum(in_group[group], 1))  # without a target there is nothing to scale
    scales *= factor * multiplicity(len(batch), settings)
    return [
        replace(sample, columns={**sample.columns, SCALE: np.full(sample.targets, scale, dtype=np.float32)})
        for sample, scale in zip(batch, scales, strict=True)
    ]


def multiplicity(batch_size: int, settings: NormalizationSpec) -> int:
    """How many times too large the published recipe's gradient is; 1 where micro-batches are not summed."""
    return batch_size // (settings.ranks * settings.micro_batch_samples) if settings.sum_micro_batches else 1


def split_batch(batch: Sequence[Sample], policy: Attends, execution: ExecutionSpec, ranks: Ranks) -> list[MicroBatch]:
    """This rank's micro-batches; their `members` are indices into `batch`.

    Every rank can tell every rank's share, so they agree on the number of micro-batches without talking; a rank with
    fewer runs empty ones, or the others would wait for it for ever.
    """
    tokens = execution.micro_batch_tokens
    row_length = tokens if policy.padding_free else execution.pack_length
    shares = [micro_batches(batch[rank :: ranks.world_size], row_length, tokens) for rank in range(ranks.world_size)]
    mine = [
        replace(one, members=tuple(ranks.rank + ranks.world_size * index for index in one.members))
        for one in shares[ranks.rank]
    ]
    missing = max(map(len, shares)) - len(mine)
    return mine + [empty_micro_batch(batch[0].columns)] * missing
