from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest
import torch
from torch import Tensor

from dft_sweeps.data.packing import MicroBatch, micro_batches
from dft_sweeps.objectives import make_objective
from dft_sweeps.spec.models import ExecutionSpec, ModelSpec
from dft_sweeps.training.attention import BY_SAMPLE, SDPA
from dft_sweeps.training.decoder import decoder_layers
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import Policy, load_policy, target_logprobs
from tests.training.architectures import tiny
from tests.training.tiny_policy import random_samples, train_spec

DFT = make_objective("dft")
BF16 = ModelSpec(dtype="bfloat16", parameter_dtype="bfloat16")


def packed(count: int = 8, seed: int = 0) -> MicroBatch:
    (batch,) = micro_batches(random_samples(count, seed), 10_000, 10_000)
    return batch


def gradients(policy: Policy, batch: MicroBatch) -> dict[str, Tensor]:
    policy.zero_grad()
    policy(batch, DFT).objective.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.trained_parameters()}


def counted(policy: Policy) -> Counter[str]:
    """Counts how often the MLP of each layer begins to run."""
    calls: Counter[str] = Counter()
    for name, module in policy.model.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_pre_hook(lambda module, arguments, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("adapter", [None, {"kind": "lora"}])
@pytest.mark.parametrize("model", [ModelSpec(), ModelSpec(dtype="bfloat16"), BF16])
@pytest.mark.parametrize("attention", [BY_SAMPLE, SDPA])
def test_checkpointed_layers_run_twice_and_give_the_same_gradients(
    adapter: dict[str, str] | None, model: ModelSpec, attention: str
) -> None:
    batch, train = packed(), train_spec("dft", adapter=adapter)
    policies = [
        load_policy(EMBEDDED, model, train, ExecutionSpec(attention=attention, gradient_checkpointing=on))
        for on in (False, True)
    ]
    names = [[name for name, _ in policy.model.named_parameters()] for policy in policies]
    assert names[0] == names[1]
    calls = [counted(policy) for policy in policies]
    plain, again = (gradients(policy, batch) for policy in policies)
    assert set(calls[0].values()) == {1} and set(calls[1].values()) == {2} and len(calls[1]) == 4
    for name, gradient in plain.items():
        assert torch.equal(again[name], gradient), name
    assert torch.equal(*(target_logprobs(policy, batch) for policy in policies))
    assert set(calls[1].values()) == {3}  # without gradients nothing is computed twice


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gpt_neox"])
def test_the_layers_are_the_decoders(name: str) -> None:
    model = tiny(name)
    layers = decoder_layers(model)
    assert len(layers) == model.config.num_hidden_layers
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = [name.split(".")[-2] for name, parameter in model.named_parameters() if id(parameter) not in inside]
    assert set(outside) <= {"embed_tokens", "norm", "lm_head", "wte", "wpe", "ln_f", "embed_in", "embed_out"} | {
        "final_layer_norm"
    }


@pytest.mark.slow  # half a minute of compiling
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_losses_and_gradients(checkpointing: bool) -> None:
    if shutil.which("g++") is None:
        assert os.environ.get("CI") != "true", "CI must have a C++ compiler"
        pytest.skip("torch.compile needs g++")
    execution = ExecutionSpec(compile=True, gradient_checkpointing=checkpointing)
    plain, compiled = load_policy(EMBEDDED), load_policy(EMBEDDED, execution=execution)
    assert [name for name, _ in compiled.trained_parameters()] == [name for name, _ in plain.trained_parameters()]
    for seed in range(3):  # rows of three lengths
        batch = packed(8 + seed, seed)
        losses = [policy(batch, DFT).objective.item() for policy in (plain, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        expected, found = gradients(plain, batch), gradients(compiled, batch)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
        assert torch.equal(target_logprobs(compiled, batch), target_logprobs(plain, batch))
