"""Attention over packed rows: each sample attends to itself alone, and costs no more than alone.

`by_sample` is registered with transformers beside its own implementations. It gets no mask: the lengths of the samples
come down to it through the decoder's keyword arguments, once per micro-batch from the host's arrays, so nothing waits
for the device. With it and with FlashAttention a row of many short samples costs no more than the samples, so a
micro-batch may be one long row without padding; the others work over the whole row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from dft_sweeps.spec.errors import SpecError

BY_SAMPLE, FLASH, FLEX, SDPA = "by_sample", "flash_attention_2", "flex_attention", "sdpa"
PADDING_FREE = frozenset({BY_SAMPLE, FLASH})
"""Implementations whose cost depends on the samples and not on the rows they lie in."""

_HALF = (torch.bfloat16, torch.float16)
_REFUSED = {"softcap": "soft-capped scores", "s_aux": "attention sinks", "position_bias": "a position bias"}
_LAYERS = {"full_attention", "sliding_attention"}


def by_sample_attention(
    module: nn.Module,
    query: Tensor,  # [rows, heads, width, head size]
    key: Tensor,  # [rows, key heads, width, head size]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    sample_lengths: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sample: [rows, width, heads, head size] and no weights, as transformers has it.

    `sample_lengths` are those of the samples (padding included as one of its own) in the order of the flattened rows,
    on the host; `cu_seq_lens_q` and `max_length_q` say the same to kernels of GPUs. From each position, itself and the
    `sliding_window - 1` before it are attended to.

    Raises:
        SpecError: the architecture asks for what this does not compute.
    """
    _refuse(module, attention_mask, sample_lengths, others)
    assert sample_lengths is not None and dropout == 0.0
    rows, _, width, _ = query.shape
    device, dtype = query.device.type, query.dtype
    if torch.is_autocast_enabled(device):  # rotary positions leave float32 behind
        dtype = torch.get_autocast_dtype(device)
    flat = [tensor.transpose(1, 2).flatten(0, 1).to(dtype) for tensor in (query, key, value)]  # [tokens, heads, size]
    if cu_seq_lens_q is not None and max_length_q is not None and _has_kernel(*flat):
        out = _by_kernel(*flat, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        out = _one_by_one(*flat, sample_lengths, scaling, sliding_window)
    return out.unflatten(0, (rows, width)), None


def _has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch's FlashAttention takes these."""
    size = query.shape[-1]
    return query.dtype in _HALF and size == key.shape[-1] == value.shape[-1] and size % 8 == 0 and size <= 256


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """Tensors are [tokens, heads, head size]; `ends` are those of the samples, a zero before them."""
    from torch.nn.attention.varlen import varlen_attn

    reach = (-1 if window is None else window - 1, 0)
    return varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=reach, enable_gqa=True
    )


@torch.compiler.disable  # as many calls as samples: a graph of them would be compiled anew for every micro-batch
def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """Tensors are [tokens, heads, head size]."""
    sizes = lengths.tolist()
    samples = zip(*(tensor[None].transpose(1, 2).split(sizes, 2) for tensor in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    pieces = []
    for q, k, v in samples:  # [1, heads, length, head size]
        mask = None if window is None or q.shape[2] <= window else _within(window, q.shape[2], q.device)
        out = scaled_dot_product_attention(q, k, v, mask, scale=scaling, is_causal=mask is None, enable_gqa=grouped)
        pieces.append(out.transpose(1, 2))
    return torch.cat(pieces, 1)[0]


def _within(window: int, length: int, device: torch.device) -> Tensor:
    """Mask [length, length], true from each position to itself and the `window - 1` before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril_().triu_(1 - window)


def _refuse(module: nn.Module, mask: Tensor | None, lengths: Tensor | None, others: dict[str, Any]) -> None:
    wanted = [what for name, what in _REFUSED.items() if others.get(name) is not None]
    if mask is not None:
        wanted.append("a mask of its own")
    if others.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        wanted.append("attention to later tokens")
    if lengths is None:
        wanted.append("attention that is not told where samples begin")
    if wanted:
        raise SpecError(f"attention by_sample: {type(module).__name__} needs {', '.join(wanted)}, which it does not do")


AttentionInterface.register(BY_SAMPLE, by_sample_attention)  # and no mask function, so no mask is built


def attention_arguments(implementation: str, positions: NDArray[np.int64], device: torch.device) -> dict[str, Any]:
    """What the decoder must hand down to its attention for rows of `positions`, which restart at every sample."""
    if implementation not in PADDING_FREE:
        return {}  # transformers makes a mask from the positions
    starts = np.flatnonzero(positions == 0)
    lengths = np.diff(starts, append=positions.size)
    arguments: dict[str, Any] = {"sample_lengths": torch.from_numpy(lengths)} if implementation == BY_SAMPLE else {}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        arguments |= flash_arguments(lengths, device)
    return arguments


def flash_arguments(lengths: NDArray[np.int64], device: torch.device) -> dict[str, Any]:
    """What FlashAttention's kernels for samples of any lengths are told, under transformers' names."""
    ends = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def available_attention(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Implementations that work for this architecture, device and compute dtype, the fastest first."""
    found = []
    if device.type == "cuda" and dtype in _HALF and model._supports_flash_attn and is_flash_attn_2_available():
        found.append(FLASH)
    if model._supports_attention_backend and set(getattr(model.config, "layer_types", None) or ()) <= _LAYERS:
        found.append(BY_SAMPLE)
    if device.type == "cuda" and model._supports_flex_attn:  # torch has no backward pass of it for CPUs
        found.append(FLEX)
    if model._supports_sdpa:
        found.append(SDPA)
    return found


def candidates(requested: str, model: PreTrainedModel, dtype: torch.dtype) -> list[str]:
    """The implementations to try for what `execution.attention` asks for, the best first.

    Raises:
        SpecError: it does not work for this architecture, device or dtype, or none does.
    """
    found = available_attention(model, model.device, dtype)
    where = f"a model of type {model.config.model_type} on {model.device.type} in {str(dtype).removeprefix('torch.')}"
    if not found:
        raise SpecError(f"there is no attention over packed samples for {where}")
    if requested not in ("auto", *found):
        raise SpecError(f"execution.attention is {requested}, but for {where} there is only: {', '.join(found)}")
    return found if requested == "auto" else [requested]


def usable_attention(model: PreTrainedModel, dtype: torch.dtype) -> str:
    """The model's own implementation, or one in its place for a pass in a dtype it does not have."""
    own = model.config._attn_implementation
    return own if own != FLASH or dtype in _HALF else available_attention(model, model.device, dtype)[0]


@contextmanager
def attending_with(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Inside, the model attends with another implementation."""
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before
