"""Which samples each optimizer step trains on: a pure function of the seed, so a run can stop and go on anywhere."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import TrainSpec


def total_steps(train: TrainSpec, samples: int) -> int:
    """Optimizer steps of a trial on so many samples; the last incomplete batch of each epoch is left out.

    Part of an epoch is rounded down to whole steps, but there is at least one.

    Raises:
        SpecError: fewer samples than one batch.
    """
    if samples < train.batch_size:
        raise SpecError(f"train.batch_size is {train.batch_size}, but there are only {samples} samples")
    if train.steps is not None:
        return train.steps
    assert train.epochs is not None
    # Rounded first, or 0.29 epochs of 100 steps would be 28.999999999999996 steps.
    return max(1, math.floor(round(train.epochs * (samples // train.batch_size), 6)))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(samples)


def batch_indices(step: int, train: TrainSpec, samples: int) -> list[int]:
    """Indices of the samples of optimizer step `step` (from 1): each epoch goes through a new permutation."""
    per_epoch = samples // train.batch_size
    epoch, position = divmod(step - 1, per_epoch)
    start = position * train.batch_size
    return _permutation(train.seed, epoch, samples)[start : start + train.batch_size].tolist()
