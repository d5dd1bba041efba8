from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.attention import BY_SAMPLE, SDPA
from dft_sweeps.training.model_checks import check_head, check_packing, settle_attention
from tests.training.architectures import tiny
from tests.training.tiny_policy import tiny_model

SUPPORTED = ("qwen2", "qwen2_tied", "llama", "mistral", "gemma3_text", "gpt_neox", "gpt2")


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("attention", [BY_SAMPLE, SDPA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_architectures_that_pass(name: str, attention: str, dtype: torch.dtype) -> None:
    model = tiny(name)
    settle_attention(model, attention, dtype)
    check_head(model)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        ("bloom", "auto", "no attention over packed samples for a model of type bloom on cpu in float32"),
        ("opt", "sdpa", "a model of type opt does not tell packed samples apart .*attention sdpa"),
        ("qwen3_5_text", "auto", "a model of type qwen3_5_text does not tell packed samples apart"),
        ("qwen3_5_text", "by_sample", "attention is by_sample, but for .*qwen3_5_text.* there is only: sdpa"),
        ("llama4_text", "auto", "llama4_text does not tell packed samples apart: its decoder takes no position ids"),
        ("gemma2", "auto", "by_sample: Gemma2Attention needs soft-capped scores"),
        ("gpt_oss", "auto", "by_sample: GptOssAttention needs attention sinks"),
        ("nemotron", "by_sample", "by_sample: NemotronAttention needs attention that is not told where samples begin"),
    ],
)
def test_architectures_that_are_refused(name: str, attention: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settle_attention(tiny(name), attention, torch.float32)


@pytest.mark.parametrize(("name", "found"), [("qwen2", BY_SAMPLE), ("opt", BY_SAMPLE), ("nemotron", SDPA)])
def test_auto_takes_the_first_that_works(name: str, found: str) -> None:
    model = tiny(name)
    settle_attention(model, "auto", torch.float32)
    assert model.config._attn_implementation == found


def leaking(module: torch.nn.Module, *arguments: Any, **settings: Any) -> tuple[torch.Tensor, None]:
    """Right but for a thousandth of what causal attention over the whole row gives."""
    right, _ = sdpa_attention_forward(module, *arguments, **settings)
    mixed, _ = sdpa_attention_forward(module, *arguments[:3], None, **settings)
    return torch.lerp(right, mixed, 1e-3), None


def test_an_attention_that_leaks_a_little_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", leaking)
    model.config._attn_implementation = "sdpa"
    with pytest.raises(SpecError, match="does not tell packed samples apart"):
        check_packing(model.eval(), torch.float32)


def test_weights_that_are_not_numbers_are_called_that() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(SpecError, match="hidden states that are not finite"):
        check_packing(model.eval(), torch.float32)


class Scaled(Qwen2ForCausalLM):
    def forward(self, *arguments: Any, **settings: Any) -> Any:
        outputs = super().forward(*arguments, **settings)
        outputs.logits = outputs.logits * 1.01
        return outputs


def test_a_head_that_does_more_than_it_says_is_refused() -> None:
    model = Scaled(tiny_model().config)
    with pytest.raises(SpecError, match="head of a model of type qwen2 does more than multiply by its matrix"):
        check_head(model.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_checks_leave_no_trace(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    random, before = torch.get_rng_state(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settle_attention(model, "sdpa", torch.bfloat16)
    check_head(model)
    assert model.config._attn_implementation == "sdpa" and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
