"""Token objectives: the loss of a target token as a function of its log-probability.

Each takes ``logp`` of shape [tokens], the policy's log-probabilities of the target tokens, and gives the loss of each
token, shape [tokens]. It must be differentiable in ``logp``; everything it treats as a constant is detached. Sums and
the denominator belong to the training loop.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

TokenObjective = Callable[[Tensor], Tensor]


def sft(logp: Tensor) -> Tensor:
    """Supervised fine-tuning, the cross-entropy -log p (Eq. 1 of arXiv 2508.05629)."""
    return -logp


def dft(logp: Tensor) -> Tensor:
    """Dynamic fine-tuning, -sg(p) log p (Eq. 9 of arXiv 2508.05629)."""
    return -logp.exp().detach() * logp


OBJECTIVES: dict[str, TokenObjective] = {"sft": sft, "dft": dft}
"""By the name they have in a spec."""
