"""The head: from hidden states to the objective in one pass, without ever holding the full logits.

For a token objective, the derivative of the loss by each token's log-probability is known as soon as that
log-probability is. So while a chunk's logits are still there, their gradient is formed in place and multiplied into
the gradients of the hidden states and of the output matrix: one forward and two backward products per chunk, no
recomputation, and memory for one chunk of logits. Positions without a target are skipped before the first product.

Under FSDP2 the sharded root calls this inside its own forward, where the output matrix is whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dft_sweeps.data.packing import IGNORE
from dft_sweeps.objectives import TokenObjective

CHUNK = 1024
"""Tokens whose logits are held at a time."""


class HeadSums(NamedTuple):
    """Sums over the targets of a micro-batch, float32 scalars. Only `objective` has a gradient."""

    objective: Tensor
    """Sum of the objective, times the scale."""
    nll: Tensor
    """Sum of -log p, in nats."""
    probability: Tensor
    """Sum of p."""
    entropy: Tensor
    """Sum of the entropy of the policy's next-token distribution, in nats."""


def token_objective(
    hidden: Tensor, weight: Tensor, labels: Tensor, objective: TokenObjective, scale: float, chunk: int = CHUNK
) -> HeadSums:
    """Sums a token objective over the targets, in chunks of tokens.

    Args:
        hidden: [..., width], the policy's last hidden states, in its compute dtype.
        weight: [vocabulary, width], the output matrix.
        labels: [...], the token to predict at each position, or -100 for none.
        objective: log-probabilities [tokens], at least float32, to losses [tokens].
        scale: factor on the sum: one over the number of targets in the whole optimizer batch.
        chunk: tokens at a time.
    """
    targets = labels.reshape(-1) != IGNORE
    rows = hidden.reshape(-1, hidden.shape[-1])[targets]
    # Inside the operation grad mode is always off, and its inputs say "needs gradient" even under no_grad.
    wanted = (rows.requires_grad, weight.requires_grad) if torch.is_grad_enabled() else (False, False)
    return HeadSums(*_Head.apply(rows, weight, labels.reshape(-1)[targets], objective, scale, chunk, wanted))


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # [tokens, width]
        weight: Tensor,  # [vocabulary, width]
        labels: Tensor,  # [tokens]
        objective: TokenObjective,
        scale: float,
        chunk: int,
        wanted: tuple[bool, bool],  # the gradient of `hidden`, of `weight`
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(hidden.dtype, torch.float32)  # float64 stays float64
        hidden_grad = torch.empty_like(hidden) if wanted[0] else None
        weight_grad = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        matrix = weight.to(hidden.dtype)
        sums = torch.zeros(4, dtype=wide, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            piece = slice(start, start + chunk)
            logits = (hidden[piece] @ matrix.T).to(wide)  # [chunk, vocabulary]
            normalizer = logits.logsumexp(-1)
            target = labels[piece, None]
            logp = logits.gather(-1, target).squeeze(-1) - normalizer
            losses, coefficient = _losses_and_coefficients(objective, logp)
            probabilities = logits.sub_(normalizer[:, None]).exp()  # `logits` now holds log-probabilities
            # 0 * -inf is 0 here, not NaN: a word of probability zero adds no entropy.
            entropy = -torch.dot(probabilities.flatten(), logits.clamp_(min=torch.finfo(wide).min).flatten())
            sums += torch.stack([losses.sum() * scale, -logp.sum(), logp.exp().sum(), entropy])
            if hidden_grad is None and weight_grad is None:
                continue
            # d loss / d logits = coefficient * (one-hot - probabilities)
            coefficient = coefficient * scale
            gradient = probabilities.mul_(-coefficient[:, None])
            gradient.scatter_add_(-1, target, coefficient[:, None])
            gradient = gradient.to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[piece] = gradient @ matrix
            if weight_grad is not None:
                weight_grad.addmm_(gradient.T.to(wide), hidden[piece].to(wide))
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        outputs = tuple(value.clone() for value in sums)  # FSDP2 hooks its root's outputs and warns of views
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = hidden_grad * upstream.to(hidden_grad.dtype)
        if weight_grad is not None:
            weight_grad = (weight_grad * upstream).to(ctx.weight_dtype)
        return hidden_grad, weight_grad, None, None, None, None, None


def _losses_and_coefficients(objective: TokenObjective, logp: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and d(loss)/d(logp), each [tokens], for any differentiable objective."""
    with torch.enable_grad():
        leaf = logp.detach().requires_grad_()
        losses = objective(leaf)
        (coefficients,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), coefficients
