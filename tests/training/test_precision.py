from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dft_sweeps.data.packing import MicroBatch, micro_batches
from dft_sweeps.objectives import make_objective
from dft_sweeps.training.policy import Policy, target_logprobs
from tests.training.architectures import tiny
from tests.training.tiny_policy import VOCABULARY, random_samples, tiny_model

DFT = make_objective("dft")


def packed(count: int = 8, seed: int = 0) -> MicroBatch:
    (batch,) = micro_batches(random_samples(count, seed), 10_000, 10_000)
    return batch


def gradients(policy: Policy, batch: MicroBatch) -> dict[str, Tensor]:
    policy.zero_grad()
    policy(batch, DFT).objective.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.trained_parameters()}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    narrow, wide = Policy(tiny_model(), torch.bfloat16), Policy(tiny_model())
    batch = packed(1)
    found, expected = (policy(batch, DFT) for policy in (narrow, wide))
    found.objective.backward()
    assert found.nll.item() == pytest.approx(expected.nll.item(), rel=2e-2)
    assert found.nll.item() != expected.nll.item()
    for parameter in narrow.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    assert torch.equal(target_logprobs(narrow, batch), target_logprobs(wide, batch))  # always float32


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """As transformers loads it: the frequencies of rotary positions stay float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "gpt2", "gpt_neox"])
def test_bfloat16_parameters_have_bfloat16_gradients_and_exact_float32_passes(name: str) -> None:
    wide = tiny(name)
    narrow = Policy(in_bfloat16(copy.deepcopy(wide)), torch.bfloat16)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.copy_(parameter.bfloat16())
    batch, before = packed(), dict(narrow.named_parameters())
    found, expected = target_logprobs(narrow, batch), target_logprobs(Policy(wide), batch)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert not torch.allclose(target_logprobs(narrow, batch, torch.bfloat16), expected, atol=1e-4)
    for gradient in gradients(narrow, batch).values():
        assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()
    after = dict(narrow.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)


def test_a_float32_pass_keeps_one_module_wide_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, alive = Policy(in_bfloat16(tiny_model()), torch.bfloat16), []

    def look(module: nn.Module, *_: object) -> None:
        parameters = itertools.chain.from_iterable(part._parameters.items() for part in policy.model.modules())
        alive.append(sum(parameter is not None and parameter.dtype == torch.float32 for _, parameter in parameters))

    for module in policy.model.modules():
        if not list(module.children()):
            module.register_forward_hook(look)
    target_logprobs(policy, packed())
    assert max(alive) == 2 and alive[-1] == 1  # a weight and a bias; the last norm


def test_a_float32_pass_that_fails_restores_the_weights() -> None:
    policy = Policy(in_bfloat16(tiny_model()), torch.bfloat16)
    before = [id(parameter) for parameter in policy.parameters()]
    batch = packed()
    batch.ids[0, 0] = VOCABULARY
    with pytest.raises(IndexError):
        target_logprobs(policy, batch)
    assert [id(parameter) for parameter in policy.parameters()] == before
    assert not any(module._forward_pre_hooks for module in policy.modules())
