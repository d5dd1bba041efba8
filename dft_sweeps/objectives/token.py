"""Token objectives: the loss of a target token as a function of its log-probability `logp`, p = exp(logp).

Everything is [tokens]. sg(.) is the stopped gradient, `detach`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sft(logp: Tensor) -> Tensor:
    """Supervised fine-tuning, the cross-entropy -log p (Eq. 1 of arXiv 2508.05629)."""
    return -logp


def dft(logp: Tensor) -> Tensor:
    """Dynamic fine-tuning, -sg(p) log p (Eq. 9 of arXiv 2508.05629)."""
    return -logp.exp().detach() * logp


def power(logp: Tensor, alpha: float) -> Tensor:
    """(1 - p^alpha) / alpha (arXiv 2510.00526): -log p at alpha = 0, and the gradient of `dft` at alpha = 1."""
    if abs(alpha) < 1e-30:  # the same numbers, and 1 / alpha stays finite
        return sft(logp)
    # In float64, because the gradient p^alpha is computed as expm1(.) + 1 and a small one would drown in rounding.
    return (-torch.expm1(alpha * logp.double()) / alpha).to(logp.dtype)


def focal(logp: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p)^gamma log p, differentiated through the weight too (Eq. 4 of arXiv 1708.02002)."""
    # At p = 1 the gradient of the power is infinite for gamma < 1; the loss's own is 0 there.
    doubt = (-logp.expm1()).clamp(min=torch.finfo(logp.dtype).tiny)
    return -(doubt**gamma) * logp


def eaft(logp: Tensor, top_entropy: Tensor, alpha: float = 1.0, top: int = 20) -> Tensor:
    """Entropy-adaptive fine-tuning, -sg(H_top / ln top)^alpha log p (arXiv 2601.02151).

    `top_entropy` is the entropy in nats of the `top` likeliest tokens, renormalised. The published code, in
    LLaMA-Factory's trainer_utils.py, has top 20 and writes ln 20 as 3.0.
    """
    return -((top_entropy.detach() / math.log(top)) ** alpha) * logp


def psft(logp: Tensor, old_logp: Tensor, low: float = 0.8, high: float = 1.28) -> Tensor:
    """Proximal fine-tuning, -min(r, clip(r, low, high)) with r = p / p_old (arXiv 2508.17784).

    PPO's clipped objective (Eq. 7 of arXiv 1707.06347) with advantage +1, so only `high` ever binds.
    """
    # Far above any `high`; unbounded, an infinite ratio would make the gradient 0 * infinity.
    ratio = (logp - old_logp).clamp(max=20.0).exp()
    return -torch.minimum(ratio, ratio.clamp(low, high))


def iw_sft_token(
    logp: Tensor, reference_logp: Tensor, temperature: float = 1.0, low: float = 0.2, high: float = 1.8
) -> Tensor:
    """Importance-weighted fine-tuning by token, -sg(clamp((p / p_ref)^temperature, low, high)) log p.

    The form that bounding_trainers.py of arXiv 2507.12856's code has beside the trajectory's, and does not use.
    """
    weight = (temperature * (logp - reference_logp)).exp().clamp(low, high)
    return -weight.detach() * logp


def within(logp: Tensor, min_probability: float, max_probability: float) -> Tensor:
    """1[min_probability <= p <= max_probability], detached: the factor of thresholded losses.

    OnlyTop and OnlyBottom in the code of arXiv 2510.00526. The denominator remains all targets.
    """
    probability = logp.detach().exp().clamp(max=1.0)  # rounding can put p above 1
    return ((probability >= min_probability) & (probability <= max_probability)).to(logp.dtype)
