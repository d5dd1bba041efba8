"""Sequence objectives: cross-entropy times one detached weight per sample, made from all targets of the sample.

Everything is [tokens]; `sample` says which sample a token belongs to. sg(.) is the stopped gradient, `detach`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def iw_sft_trajectory(
    logp: Tensor,
    reference_logp: Tensor,
    sample: Tensor,
    temperature: float = 1.0,
    low: float = 0.0,
    high: float = 16.0,
) -> Tensor:
    """Importance-weighted fine-tuning, -sg(w) log p (arXiv 2507.12856).

    w = clamp(exp(temperature * mean over the sample's targets of (log p - log p_ref)), low, high): `IwSFTLoss` with
    `sum_over_time` in the code's bounding_trainers.py, whose trainer passes temperature 1.
    """
    log_ratio, count = _sums(logp - reference_logp, sample)
    return -(temperature * log_ratio / count).exp().clamp(low, high) * logp


def sentence_weighted(logp: Tensor, sample: Tensor, mean: Literal["none", "geometric"] = "none") -> Tensor:
    """Sentence-level DFT, -sg(w) log p with w the product of the sample's probabilities, or their geometric mean.

    Neither trains well (section 4.6 of arXiv 2508.05629, version 3): a product of many probabilities is nearly 0.
    """
    log_weight, count = _sums(logp, sample)
    if mean == "geometric":
        log_weight = log_weight / count
    return -log_weight.exp() * logp


def _sums(values: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """At each token the sum of `values` over its sample, detached, and the number of the sample's tokens."""
    count = torch.bincount(sample)
    sums = torch.zeros_like(count, dtype=values.dtype).index_add(0, sample, values.detach())
    return sums[sample], count[sample]
