"""What the training core takes for granted of a model, asked of the model itself before anything is trained.

Two things vary between architectures and would otherwise go wrong without a word: whether samples packed in a row are
told apart (not where positions are ignored, as with ALiBi, or a state is carried along, as in Mamba), and whether the
logits are the product of hidden states and output matrix (not where they are scaled, capped or shifted).
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from dft_sweeps.data.packing import IGNORE, MicroBatch
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.attention import attending_with, candidates
from dft_sweeps.training.decoder import hidden_states
from dft_sweeps.training.model_files import refuse_unsupported_head
from dft_sweeps.training.precision import computing_in

_LENGTHS = (9, 13)
_WIDE, _NARROW = (2e-4, 2e-5), (0.5, 0.05)
"""Largest difference that is rounding, in float32 and in half precision: relative to what mixing the samples would
make, and to the hidden states."""
_LOGITS = 1e-3
"""Largest difference of logits that is rounding, relative to the logits."""


def settle_attention(model: PreTrainedModel, requested: str, dtype: torch.dtype) -> None:
    """Has the model attend as `execution.attention` asks: by the first implementation that tells samples apart.

    Raises:
        SpecError: what is asked for is not available, or does not; see `check_packing`.
    """
    errors = []
    for implementation in candidates(requested, model, dtype):
        model.config._attn_implementation = implementation
        try:
            return check_packing(model, dtype)
        except SpecError as error:
            errors.append(error)
    raise errors[0]


@torch.no_grad()
def check_packing(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Compares two samples of random tokens packed in a row with the second alone, in float32 and in `dtype`.

    Alone it goes through transformers' plainest attention, so an implementation that leaves something out fails too.

    Raises:
        SpecError: they differ by more than rounding, or the decoder takes no positions.
    """
    decoder, what = model.get_decoder(), _name(model)
    if decoder is model or "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise SpecError(f"{what} does not tell packed samples apart: its decoder takes no position ids")
    first, second = _LENGTHS
    ids = _random_ids(model, first + second)
    for computed in {torch.float32, dtype}:
        packed = hidden_states(model, _row(ids, _LENGTHS), computed)[:, first:]
        joined = hidden_states(model, _row(ids, (first + second,)), computed)[:, first:]
        with attending_with(model, "eager"):
            alone = hidden_states(model, _row(ids[:, first:], (second,)), computed)
        if not alone.isfinite().all():
            raise SpecError(f"{what} gives hidden states that are not finite")
        mixed, size = _distance(joined, alone), float(alone.abs().max())
        of_mixed, of_size = _WIDE if computed == torch.float32 else _NARROW
        if _distance(packed, alone) > max(of_mixed * mixed, of_size * size):
            attention = model.config._attn_implementation
            raise SpecError(f"{what} does not tell packed samples apart (execution.attention {attention})")


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compares the model's own logits of random tokens with hidden states times output matrix, in float32.

    Raises:
        SpecError: they differ by more than rounding, or the configuration says already that they will.
    """
    refuse_unsupported_head(model, model.config.model_type)
    ids = _random_ids(model, _LENGTHS[0])
    with attending_with(model, "eager"):
        hidden = hidden_states(model, _row(ids, (_LENGTHS[0],)), torch.float32)
        with computing_in(model, torch.float32):
            logits = model(input_ids=torch.from_numpy(ids).to(model.device), use_cache=False).logits
    product = hidden @ model.get_output_embeddings().weight.float().T
    if not _distance(logits, product) <= _LOGITS * float(product.abs().max()):
        raise SpecError(f"the head of {_name(model)} does more than multiply by its matrix, which is not supported")


def _name(model: PreTrainedModel) -> str:
    return f"a model of type {model.config.model_type}"


def _random_ids(model: PreTrainedModel, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(model.config.vocab_size, size=(1, length))


def _row(ids: NDArray[np.int64], lengths: tuple[int, ...]) -> MicroBatch:
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    return MicroBatch(ids, positions, np.full_like(ids, IGNORE), np.zeros(0, dtype=np.int64), {}, ())


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
