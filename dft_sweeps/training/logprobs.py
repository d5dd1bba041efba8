"""Log-probabilities of whole samples under a policy that stands still: the reference's, or the old policy's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dft_sweeps.data.durable import put_in_place
from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import ExecutionSpec
from dft_sweeps.training.batch import split_batch
from dft_sweeps.training.policy import Policy, target_logprobs
from dft_sweeps.training.sharding import Ranks

Column = list[NDArray[np.float32]]
"""Numbers for the targets of samples: an array [targets] for each sample."""

_BLOCK = 1024
"""Samples packed at a time."""


def share_logprobs(policy: Policy, batch: Sequence[Sample], execution: ExecutionSpec, ranks: Ranks) -> Column:
    """Log-probabilities of the targets of this rank's share of a batch, zeros for the other samples. Collective.

    Computed as training computes them: in the policy's own dtype and the packing of the batch.
    """
    found: Column = [np.zeros(sample.targets, dtype=np.float32) for sample in batch]
    for micro_batch in split_batch(batch, policy, execution, ranks):
        logp = target_logprobs(policy, micro_batch, policy.dtype).float().cpu().numpy()
        ends = np.cumsum([batch[member].targets for member in micro_batch.members])
        for member, piece in zip(micro_batch.members, np.split(logp, ends[:-1]), strict=False):
            found[member] = piece
    return found


def all_logprobs(policy: Policy, data: Sequence[Sample], execution: ExecutionSpec, ranks: Ranks) -> Column:
    """Log-probabilities of every sample's targets, on every rank. Collective."""
    column: Column = []
    device = policy.model.device
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK]
        share = share_logprobs(policy, block, execution, ranks)
        # Each target is computed by one rank and zero on the others, so the sum is exact.
        flat = ranks.sum(torch.from_numpy(np.concatenate(share)).to(device)).cpu().numpy()
        column += np.split(flat, np.cumsum([sample.targets for sample in block])[:-1])
    return column


def save_column(path: Path, column: Column) -> None:
    """Writes a column to one `.npz` file, which is on the disk then, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(partial, values=np.concatenate(column), lengths=np.array([len(piece) for piece in column]))
    put_in_place(partial, path)


def load_column(path: Path) -> Column:
    """Reads what `save_column` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return np.split(arrays["values"], np.cumsum(arrays["lengths"])[:-1])
