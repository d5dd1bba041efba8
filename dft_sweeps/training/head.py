"""The head: from hidden states to the objective in chunks of tokens, without ever holding the full logits.

Where a token's coefficient d(loss)/d(logp) follows from its own log-probability, the gradient is formed while the
chunk's logits are still there: one forward and two backward products, no recomputation, memory for one chunk.
Objectives that look at whole samples take a first pass for all log-probabilities and form the chunk's logits twice.
Positions without a target are skipped before the first product.

Nothing is cleaned: a target without probability, or logits that are not numbers, end in a sum that is not finite.
Under FSDP2 the sharded root calls this inside its own forward, where the output matrix is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dft_sweeps.data.packing import IGNORE
from dft_sweeps.objectives import Objective, Targets

# Bytes of logits: on a CPU, on an accelerator.
CHUNK_BYTES = (80 << 20, 1 << 30)
"""Held at a time: enough tokens for matrix products to run near full speed. On a CPU, with what else the head needs, a
tenth of what dense PyTorch takes for 1,024 tokens over a vocabulary of 151,936."""
BLOCK_BYTES = (512 << 10, 256 << 20)
"""Worked on at a time between the products, in the dtype of the sums: on a CPU what stays in its cache."""
CPU_TILE = 8192
"""Words whose logits a CPU forms at a time."""


class HeadSums(NamedTuple):
    """Sums over the targets of a micro-batch, scalars, at least float32. Only `objective` has a gradient."""

    objective: Tensor
    """Sum of scale times the loss, row term included."""
    nll: Tensor
    """Sum of -log p, in nats."""
    probability: Tensor
    """Sum of p."""
    entropy: Tensor
    """Sum of the entropy of the policy's next-token distribution, in nats."""
    row_term: Tensor
    """Sum of the row term's values, without scale and weight; 0 where the objective has none."""


def objective_sums(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    objective: Objective,
    scale: Tensor,
    sample: Tensor,
    columns: Mapping[str, Tensor],
    reference: tuple[Tensor, Tensor] | None = None,
    chunk: int | None = None,
) -> HeadSums:
    """Sums an objective over the targets of a micro-batch.

    The gradient is formed on the way and can be taken once.

    Args:
        hidden: [..., width], the policy's last hidden states, in its compute dtype.
        weight: [vocabulary, width], the output matrix.
        labels: [...], the token to predict at each position, or -100 for none; T of them are targets.
        objective: what to sum.
        scale: [T], the factor on each target's loss, one over the denominator of the whole optimizer batch.
        sample: [T], int64, which sample of the micro-batch a target belongs to.
        columns: [T] each, the fields of `Targets` that the objective needs and the head does not compute.
        reference: the reference's hidden states [..., its width] and output matrix, for an objective with a row term.
        chunk: tokens at a time; by default what fits CHUNK_BYTES.
    """
    kept = (labels.reshape(-1) != IGNORE).nonzero().squeeze(-1)
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, kept)
    wide = torch.promote_types(hidden.dtype, torch.float32)  # float64 stays float64
    frozen = None
    if objective.row_term is not None:
        assert reference is not None, "an objective with a row term needs the reference"
        states, matrix = reference[0].detach(), reference[1].detach()
        assert len(matrix) == len(weight), "policy and reference have different vocabularies"
        frozen = (states.reshape(-1, states.shape[-1]).index_select(0, kept), matrix.to(states.dtype))
    scale = scale.to(wide)
    work = _Work(
        labels=labels.reshape(-1).index_select(0, kept),
        objective=objective,
        scale=scale,
        row_weight=scale * (objective.row_term.weight if objective.row_term else 0.0),
        sample=sample,
        columns={name: columns[name].to(wide) for name in objective.needs - {"top_entropy"}},
        reference=frozen,
        chunk=chunk or _even(len(rows), _fitting(CHUNK_BYTES, hidden.device, len(weight) * hidden.dtype.itemsize)),
        block=_fitting(BLOCK_BYTES, hidden.device, len(weight) * wide.itemsize),
        # Inside the operation grad mode is always off, and its inputs say "needs gradient" even under no_grad.
        wanted=(rows.requires_grad, weight.requires_grad) if torch.is_grad_enabled() else (False, False),
    )
    return HeadSums(*_Head.apply(rows, weight, work))


@dataclass(frozen=True)
class _Work:
    """What the operation needs beside the tensors it differentiates by; tensors are [targets]."""

    labels: Tensor
    objective: Objective
    scale: Tensor
    row_weight: Tensor  # the row term's weight times the scale
    sample: Tensor
    columns: Mapping[str, Tensor]
    reference: tuple[Tensor, Tensor] | None  # hidden states [targets, its width] and output matrix
    chunk: int  # tokens
    block: int  # tokens
    wanted: tuple[bool, bool]  # the gradient of the hidden states, of the output matrix


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, work: _Work) -> tuple[Tensor, ...]:
        """Of hidden states [targets, width] and the output matrix: the five sums, and the gradients for later."""
        matrix = weight.to(hidden.dtype)
        wide = work.scale.dtype
        hidden_grad = torch.empty_like(hidden) if work.wanted[0] else None
        weight_grad = torch.empty_like(weight, dtype=wide) if work.wanted[1] else None
        buffer = hidden.new_empty(min(work.chunk, len(hidden)), len(weight))
        pieces = _slices(len(hidden), work.chunk)
        ahead = work.objective.whole_samples
        sums = torch.zeros(5, dtype=wide, device=hidden.device)

        def logits_of(piece: slice) -> Tensor:
            return _product(hidden[piece], matrix, buffer[: piece.stop - piece.start])

        if ahead:
            looks = [_look(logits_of(piece), work, piece) for piece in pieces]
            whole = _price(torch.cat(looks, 1) if looks else sums.new_empty(3, 0), work, slice(None))
        for piece in pieces:
            # The logits of a single piece looked at ahead are still there.
            logits = buffer if ahead and len(pieces) == 1 else logits_of(piece)
            priced = whole[:, piece] if ahead else _price(_look(logits, work, piece), work, piece)
            sums += _form(logits, priced, work, piece)
            if hidden_grad is not None:
                torch.mm(logits, matrix, out=hidden_grad[piece])
            if weight_grad is not None:
                _add_product(weight_grad, logits.T, hidden[piece], first=piece is pieces[0])
        if not pieces and weight_grad is not None:
            weight_grad.zero_()
        ctx.gradients, ctx.weight_dtype = [hidden_grad, weight_grad], weight.dtype
        outputs = tuple(value.clone() for value in sums)  # FSDP2 hooks its root's outputs and warns of views
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of the head were formed once and have been taken already")
        (hidden_grad, weight_grad), ctx.gradients = ctx.gradients, None
        for gradient in (hidden_grad, weight_grad):
            # In place: a copy of the matrix's gradient would cost more than all the logits held at a time. On an
            # accelerator the comparison would wait for it.
            if gradient is not None and (gradient.is_cuda or upstream != 1):
                gradient.mul_(upstream)
        return hidden_grad, None if weight_grad is None else weight_grad.to(ctx.weight_dtype), None


def _look(logits: Tensor, work: _Work, piece: slice) -> Tensor:
    """[3, n]: of each row the target's log-probability, the normalizer, and the entropy of the likeliest if needed."""
    target_logits = logits.gather(-1, work.labels[piece, None]).squeeze(-1).to(work.scale.dtype)
    seen = target_logits.new_zeros(3, len(logits))
    top = min(work.objective.entropy_top, logits.shape[-1])
    for block in _slices(len(logits), work.block):
        rows = logits[block].to(seen.dtype)
        seen[1, block] = rows.logsumexp(-1)
        if top:
            likeliest = rows.topk(top, sorted=False).values.log_softmax(-1)
            seen[2, block] = _entropies(likeliest.exp(), likeliest)
    seen[0] = target_logits - seen[1]
    return seen


def _price(seen: Tensor, work: _Work, piece: slice) -> Tensor:
    """[4, n]: logp, normalizer, loss and d(loss)/d(logp), both times the scale."""
    logp, normalizer, top_entropy = seen
    given = {name: column[piece] for name, column in work.columns.items()}
    if "top_entropy" in work.objective.needs:
        given["top_entropy"] = top_entropy
    with torch.enable_grad():
        leaf = logp.detach().requires_grad_()
        losses = work.objective.loss(Targets(leaf, work.sample[piece], **given)) * work.scale[piece]
        (coefficients,) = torch.autograd.grad(losses.sum(), leaf)
    return torch.stack([logp, normalizer, losses.detach(), coefficients])


def _form(logits: Tensor, priced: Tensor, work: _Work, piece: slice) -> Tensor:
    """The five sums over the piece's targets. Puts the gradient by the logits in their place, if one is wanted."""
    logp, normalizer, losses, coefficients = priced
    labels, row_weight = work.labels[piece, None], work.row_weight[piece]
    entropies, row_values = torch.zeros_like(priced[:2])
    frozen = None
    if work.reference is not None:
        states, matrix = work.reference[0][piece], work.reference[1]
        frozen = _product(states, matrix, states.new_empty(logits.shape))
    spare = priced.new_empty(min(work.block, len(logits)), logits.shape[-1])
    for block in _slices(len(logits), work.block):
        rows = logits[block]
        logprobs = torch.sub(rows, normalizer[block, None], out=spare[: len(rows)])
        probabilities = torch.exp(logprobs, out=rows) if rows.dtype == logprobs.dtype else logprobs.exp()
        if frozen is not None:
            assert work.objective.row_term is not None
            reference = frozen[block].to(logprobs.dtype).log_softmax(-1)
            row_values[block], row_gradient = work.objective.row_term.values_and_gradient(logprobs, reference)
        entropies[block] = _entropies(probabilities, logprobs)
        if not any(work.wanted):
            continue
        # d loss / d logits = coefficient * (one-hot - probabilities)
        gradient = probabilities.mul_(-coefficients[block, None])
        gradient.scatter_add_(-1, labels[block], coefficients[block, None])
        if frozen is not None:
            gradient += row_gradient.mul_(row_weight[block, None])
        if gradient.dtype != rows.dtype:
            rows.copy_(gradient)
    return torch.stack([losses + row_weight * row_values, -logp, logp.exp(), entropies, row_values]).sum(-1)


def _entropies(probabilities: Tensor, logprobs: Tensor) -> Tensor:
    """[rows]; overwrites `logprobs`."""
    # 0 * -inf is 0 here, not NaN: a word of probability zero adds no entropy.
    return -logprobs.clamp_(min=torch.finfo(logprobs.dtype).min).mul_(probabilities).sum(-1)


def _product(rows: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """rows @ matrix.T, into `out`."""
    # MKL wants as much memory again as the product of a few rows with a transposed matrix takes.
    tile = CPU_TILE if rows.device.type == "cpu" else len(matrix)
    for words in _slices(len(matrix), tile):
        torch.mm(rows, matrix[words].T, out=out[:, words])
    return out


def _add_product(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """total += left @ right, or total = left @ right. No product is rounded to less than the sum's dtype.

    Sums of products rounded to bfloat16 drift: the gradient's error is no larger, but it has a direction.
    """
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
    elif total.is_cuda:  # on the matrix units, which take the narrow factors and give the wide sum
        total = total.zero_() if first else total
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype), beta=0 if first else 1)


def _fitting(budget: tuple[int, int], device: torch.device, row_bytes: int) -> int:
    return max(1, budget[device.type != "cpu"] // row_bytes)


def _even(length: int, most: int) -> int:
    """The length of pieces of equal length, as few as their being at most `most` long allows."""
    pieces = max(1, -(-length // most))
    return max(1, -(-length // pieces))


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
