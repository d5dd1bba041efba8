from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training import attention
from dft_sweeps.training.attention import (
    BY_SAMPLE,
    FLASH,
    FLEX,
    SDPA,
    attending_with,
    attention_arguments,
    available_attention,
    by_sample_attention,
    candidates,
    usable_attention,
)
from tests.training.architectures import WINDOW, tiny
from tests.training.tiny_policy import tiny_model

CPU = torch.device("cpu")
ROWS = ((9, 1, 20, 2), (30, 2), (4, 5, 6, 7, 8, 2))
"""Lengths of samples in rows of 32; the last of a row may be its padding, which is laid out like a sample."""


def positions_of(rows: Sequence[Sequence[int]]) -> np.ndarray:
    return np.stack([np.concatenate([np.arange(length) for length in row]) for row in rows])


def reference_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
    """Of one sample, [heads, length, head size], written out."""
    group = len(query) // len(key)
    key, value = (tensor.repeat_interleave(group, 0) for tensor in (key, value))
    scores = query @ key.transpose(1, 2) * scaling
    back = torch.arange(scores.shape[1])[:, None] - torch.arange(scores.shape[1])
    allowed = (back >= 0) & (back < (window or 10_000))
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("window", [None, 1, WINDOW, 20, 100])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
def test_by_sample_is_attention_written_out(window: int | None, heads: int, key_heads: int) -> None:
    torch.manual_seed(0)
    width, size = sum(ROWS[0]), 8
    query, key, value = (
        torch.randn(len(ROWS), width, count, size, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for count in (heads, key_heads, key_heads)
    )
    arguments = attention_arguments(BY_SAMPLE, positions_of(ROWS), CPU)
    assert arguments["sample_lengths"].tolist() == list(itertools.chain.from_iterable(ROWS))
    found, _ = by_sample_attention(
        torch.nn.Identity(), query, key, value, None, 0.3, sliding_window=window, **arguments
    )
    pieces = []
    for row, lengths in enumerate(ROWS):
        parts = zip(*(tensor[row].split(lengths, 1) for tensor in (query, key, value)), strict=True)
        pieces.append(torch.cat([reference_attention(q, k, v, 0.3, window) for q, k, v in parts], 1))
    expected = torch.stack(pieces).transpose(1, 2)
    assert found.shape == (len(ROWS), width, heads, size) and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(out, (query, key, value), upstream) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, WINDOW])
def test_on_a_gpu_the_kernel_is_told_the_same(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's kernel has no CPU form; what it is documented to compute stands in for it, behind its own signature."""
    from torch.nn.attention import varlen

    signature, told = inspect.signature(varlen.varlen_attn), []

    def documented(*arguments: Any, **settings: Any) -> Tensor:
        call = signature.bind(*arguments, **settings).arguments
        told.append(call)
        assert call["cu_seq_q"] is call["cu_seq_k"] and call["max_q"] == call["max_k"] == 30 and call["enable_gqa"]
        back, ahead = call["window_size"]  # -1: without an end
        assert ahead == 0
        lengths = call["cu_seq_q"].diff().tolist()
        parts = zip(*(call[name].transpose(0, 1).split(lengths, 1) for name in ("query", "key", "value")), strict=True)
        reach = None if back == -1 else back + 1
        return torch.cat([reference_attention(*part, call["scale"], reach) for part in parts], 1).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", documented)
    arguments = attention_arguments(BY_SAMPLE, positions_of(ROWS), CPU)
    flash = attention.flash_arguments(arguments["sample_lengths"].numpy(), CPU)
    for size, dtype, calls in ((8, torch.bfloat16, 1), (8, torch.float32, 0), (9, torch.bfloat16, 0)):
        tensors = [torch.randn(len(ROWS), heads, sum(ROWS[0]), size, dtype=dtype) for heads in (4, 2, 2)]
        settings = {"scaling": 0.3, "sliding_window": window, **arguments}
        expected, _ = by_sample_attention(torch.nn.Identity(), *tensors, None, **settings)
        assert told == []
        found, _ = by_sample_attention(torch.nn.Identity(), *tensors, None, **settings, **flash)
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
        assert len(told) == calls
        told.clear()


def hidden_and_gradients(
    model: PreTrainedModel, implementation: str, ids: np.ndarray, positions: np.ndarray, upstream: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    with attending_with(model, implementation):
        hidden = model.get_decoder()(
            input_ids=torch.from_numpy(ids),
            position_ids=torch.from_numpy(positions),
            use_cache=False,
            **attention_arguments(implementation, positions, CPU),
        ).last_hidden_state
    (hidden * upstream).sum().backward()
    return hidden.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral", "gemma3_text", "gpt_neox", "gpt2", "opt"])
def test_packed_rows_equal_samples_alone(name: str) -> None:
    """Against transformers' plain attention, one sample at a time: hidden states and every gradient."""
    model = tiny(name)
    random, positions = np.random.default_rng(0), positions_of(ROWS)
    ids = random.integers(3, 97, size=positions.shape)
    upstream = torch.from_numpy(random.standard_normal((*ids.shape, 32))).float()
    hidden, gradients = hidden_and_gradients(model, BY_SAMPLE, ids, positions, upstream)
    sums = {name: torch.zeros_like(gradient) for name, gradient in gradients.items()}
    for row, lengths in enumerate(ROWS):
        for start, end in itertools.pairwise(np.cumsum([0, *lengths]).tolist()):
            place = (slice(row, row + 1), slice(start, end))
            alone, mine = hidden_and_gradients(model, "eager", ids[place], positions[place], upstream[place])
            torch.testing.assert_close(hidden[place], alone, rtol=0, atol=3e-6)
            sums = {name: total + mine[name] for name, total in sums.items()}
    # Relative to the largest: the gradient of a bias on keys is nothing but rounding.
    largest = max(total.norm() for total in sums.values())
    assert max((gradients[name] - total).norm() for name, total in sums.items()) < 2e-6 * largest


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gpt2"])
def test_a_sample_does_not_see_its_neighbours_or_the_padding(name: str) -> None:
    """Not a bit of it: other tokens beside it, and another row length."""
    model, positions = tiny(name), positions_of(ROWS)
    ids = np.random.default_rng(0).integers(3, 97, size=positions.shape)
    others = np.random.default_rng(1).integers(3, 97, size=positions.shape)
    others[0, 10:30] = ids[0, 10:30]  # the sample of 20 tokens in the first row
    cut = (others[:1, :30], positions[:1, :30])

    def sample(ids: np.ndarray, positions: np.ndarray) -> Tensor:
        return hidden_and_gradients(model, BY_SAMPLE, ids, positions, torch.ones(()))[0][0, 10:30]

    expected = sample(ids, positions)
    assert torch.equal(sample(others, positions), expected)
    torch.testing.assert_close(sample(*cut), expected, rtol=1e-5, atol=1e-6)  # other shapes of matrix products


def test_attention_is_never_computed_over_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it fast: scores of the longest sample, not of the row, and no mask."""
    sizes: list[tuple[int, bool]] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any) -> Tensor:
        sizes.append((query.shape[2], mask is None))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    positions = positions_of(ROWS)
    hidden_and_gradients(tiny("qwen2"), BY_SAMPLE, np.zeros_like(positions), positions, torch.ones(()))
    assert sizes == 2 * [(length, True) for length in itertools.chain.from_iterable(ROWS)]  # two layers


def test_under_autocast_the_kernel_computes_in_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and keys come out of rotary positions in float32."""
    dtypes: set[torch.dtype] = set()

    def watched(*tensors: Any, **settings: Any) -> Tensor:
        dtypes.update(tensor.dtype for tensor in tensors[:3])
        return torch.nn.functional.scaled_dot_product_attention(*tensors, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", watched)
    model, positions = tiny("qwen2"), positions_of(ROWS)
    ids = np.random.default_rng(0).integers(3, 97, size=positions.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden, gradients = hidden_and_gradients(model, BY_SAMPLE, ids, positions, torch.ones(()))
        expected, _ = hidden_and_gradients(model, SDPA, ids, positions, torch.ones(()))
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(hidden, expected, rtol=0, atol=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"softcap": 50.0}, "soft-capped scores"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"position_bias": torch.zeros(1)}, "a position bias"),
        ({"is_causal": False}, "attention to later tokens"),
        ({"sample_lengths": None}, "attention that is not told where samples begin"),
        ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "a mask of its own"),
    ],
)
def test_what_by_sample_does_not_compute_is_refused(settings: dict[str, Any], message: str) -> None:
    tensors = {name: torch.randn(1, 2, 3, 4) for name in ("query", "key", "value")}
    given = {"attention_mask": None, "sample_lengths": torch.tensor([1, 2]), "softcap": None, **settings}
    with pytest.raises(SpecError, match=f"attention by_sample: Identity needs {message}, which it does not do"):
        by_sample_attention(torch.nn.Identity(), **tensors, **given)


def test_flash_attention_is_told_where_samples_begin() -> None:
    positions = positions_of(ROWS)
    assert attention_arguments(SDPA, positions, CPU) == attention_arguments(FLEX, positions, CPU) == {}
    found = attention.flash_arguments(np.array([9, 1, 20, 2, 30, 2]), CPU)
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 9, 10, 30, 32, 62, 64]
    assert found["cu_seq_lens_q"].dtype == torch.int32
    assert found["max_length_q"] == found["max_length_k"] == 30


def test_an_implementation_that_is_not_there_is_refused_with_what_is() -> None:
    model = tiny("qwen2")
    for requested in (FLASH, FLEX):
        with pytest.raises(
            SpecError,
            match=f"execution.attention is {requested}, but for a model of type qwen2 on cpu in bfloat16 there is "
            "only: by_sample, sdpa",
        ):
            candidates(requested, model, torch.bfloat16)
    assert candidates("auto", model, torch.float32) == [BY_SAMPLE, SDPA]
    assert candidates(SDPA, model, torch.float32) == [SDPA]


def test_on_a_gpu_the_fastest_that_is_installed_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gpu = tiny_model(), torch.device("cuda")
    for installed in (True, False):
        monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda installed=installed: installed)
        flash = [FLASH] * installed
        assert available_attention(model, gpu, torch.bfloat16) == [*flash, BY_SAMPLE, FLEX, SDPA]
        assert available_attention(model, gpu, torch.float32) == [BY_SAMPLE, FLEX, SDPA]


def test_a_pass_in_float32_does_not_go_through_flash_attention() -> None:
    model = tiny_model()
    model.config._attn_implementation = FLASH
    assert usable_attention(model, torch.bfloat16) == FLASH
    assert usable_attention(model, torch.float32) == BY_SAMPLE
    model.config._attn_implementation = SDPA
    assert usable_attention(model, torch.float32) == SDPA
