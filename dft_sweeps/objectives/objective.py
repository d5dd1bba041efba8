"""What an objective is given, and what it must say about itself.

An objective maps the log-probabilities of target tokens to one loss per target, differentiable in `Targets.logp` and
in nothing else: whatever it treats as a constant it detaches. Sums and the denominator belong to the training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Target tokens of a micro-batch, or of a piece of it; every tensor is [tokens]."""

    logp: Tensor
    """Log-probabilities under the policy in nats, float32 or float64; the only differentiable field."""
    sample: Tensor
    """Which sample of the micro-batch a target belongs to, int64."""
    top_entropy: Tensor | None = None
    """Entropy in nats of the policy's distribution over its `Objective.entropy_top` likeliest tokens, renormalised."""
    reference_logp: Tensor | None = None
    """Log-probabilities under the frozen reference, the policy before training."""
    old_logp: Tensor | None = None
    """Log-probabilities under the policy at its last refresh."""


@dataclass(frozen=True)
class RowTerm:
    """A term of the loss that compares whole next-token distributions of policy and reference."""

    weight: float
    """Factor on the term."""
    values_and_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(log-probabilities, the reference's log-probabilities), both [n, vocabulary], to (values [n], gradient of the
    values by the policy's logits [n, vocabulary])."""


@dataclass(frozen=True)
class Objective:
    """Losses of targets, and what must be known to compute them."""

    loss: Callable[[Targets], Tensor]
    """Losses [tokens]."""
    needs: frozenset[str] = frozenset()
    """Fields of `Targets` beyond `logp` and `sample`: top_entropy, reference_logp, old_logp."""
    whole_samples: bool = False
    """A token's coefficient depends on the other tokens of its sample, so the loss must see whole samples."""
    entropy_top: int = 0
    """How many of the likeliest tokens `top_entropy` is over."""
    row_term: RowTerm | None = None
    """Added to each target's loss."""
