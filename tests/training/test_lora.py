from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from dft_sweeps.data.packing import MicroBatch, micro_batches
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.objectives import make_objective
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import LoraSpec, ModelSpec
from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.lora import adapted, add_adapters, merged_state, without_adapters
from dft_sweeps.training.model_files import EMBEDDED, tensor_headers
from dft_sweeps.training.policy import Policy, load_policy, target_logprobs
from dft_sweeps.training.sharding import Ranks
from tests.training.architectures import tiny
from tests.training.tiny_policy import random_samples, tiny_model, train_spec

LORA = LoraSpec(kind="lora")
DFT = make_objective("dft")


def packed(count: int = 8) -> MicroBatch:
    (batch,) = micro_batches(random_samples(count), 10_000, 10_000)
    return batch


def adapted_policy(model: PreTrainedModel, settings: LoraSpec = LORA, dtype: torch.dtype = torch.float32) -> Policy:
    add_adapters(model, settings, seed=3)
    return Policy(model, dtype)


def trained(policy: Policy, steps: int = 3, rate: float = 0.3) -> Policy:
    optimizer = torch.optim.SGD([parameter for _, parameter in policy.trained_parameters()], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        policy(packed(), DFT).objective.backward()
        optimizer.step()
    return policy


def whole(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "llama", "gpt2", "gpt_neox"])
def test_adapters_are_on_every_linear_layer_but_the_head_and_nothing_else_is_trained(name: str) -> None:
    model, before = tiny(name), tiny(name)
    linear = {
        path
        for path, module in before.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not before.get_output_embeddings()
    }
    policy = adapted_policy(model, LoraSpec(kind="lora", rank=2, alpha=5.0))
    assert type(model) is type(before)
    assert adapted(model).keys() == linear
    assert {name for name, _ in policy.trained_parameters()} == {
        f"{path}.lora_{matrix}.default.weight" for path in linear for matrix in "AB"
    }
    assert all(min(parameter.shape) == 2 for _, parameter in policy.trained_parameters())
    # At the start the policy is the model it was made from, to the bit.
    assert torch.equal(target_logprobs(policy, packed()), target_logprobs(Policy(before), packed()))
    before = whole(copy.deepcopy(model))
    trained(policy)
    changed = {name for name, tensor in whole(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in policy.trained_parameters()}
    head = model.get_output_embeddings().weight
    assert head.grad is None and not head.requires_grad


def test_the_update_is_scaled_by_alpha_over_rank() -> None:
    """Low-rank matrices written out: W x + alpha / rank * B A x."""
    model = tiny("qwen2")
    trained(adapted_policy(model, LoraSpec(kind="lora", rank=4, alpha=6.0)))
    layer = adapted(model)["model.layers.1.mlp.up_proj"]
    x = torch.randn(5, 32)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape == (4, 32) and up.shape == (64, 4) and up.norm() > 0.01
    expected = x @ layer.base_layer.weight.T + 6.0 / 4 * (x @ down.T) @ up.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_seed_decides_the_adapters_and_the_global_generator_is_left_alone() -> None:
    states = []
    for seed in (3, 3, 4):
        model, random = tiny_model(), torch.get_rng_state()
        add_adapters(model, LORA, seed)
        assert torch.equal(torch.get_rng_state(), random)
        states.append({name: tensor for name, tensor in whole(model).items() if "lora_A" in name})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_only_the_named_layers_get_adapters() -> None:
    model = tiny_model()
    add_adapters(model, LoraSpec(kind="lora", target=("q_proj", "layers.1.mlp.up_proj")), seed=0)
    assert adapted(model).keys() == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }
    for name in ("lm_head", "embed_tokens", "query", "proj"):
        with pytest.raises(SpecError, match=f"no linear layer '{name}', only: down_proj, gate_proj, .*, v_proj$"):
            add_adapters(tiny_model(), LoraSpec(kind="lora", target=("q_proj", name)), seed=0)


def test_without_adapters_the_model_is_the_one_before() -> None:
    policy, before = trained(adapted_policy(tiny_model())), Policy(tiny_model())
    batch = packed()
    flags = [parameter.requires_grad for parameter in policy.parameters()]
    found = target_logprobs(policy, batch)
    with without_adapters(policy.model):
        assert torch.equal(target_logprobs(policy, batch), target_logprobs(before, batch))
    assert torch.equal(target_logprobs(policy, batch), found)
    assert (found - target_logprobs(before, batch)).abs().max() > 0.1
    assert [parameter.requires_grad for parameter in policy.parameters()] == flags


@pytest.mark.parametrize("name", ["qwen2", "qwen2_tied", "llama", "gpt2", "gpt_neox"])
def test_transformers_loads_a_merged_checkpoint_as_the_adapted_policy(name: str, tmp_path: Path) -> None:
    policy = trained(adapted_policy(tiny(name)))
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    save_checkpoint(policy, Prompts(tokenizer), make_canary(policy, random_samples(4)), tmp_path / "1", Ranks())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "1")
    assert type(loaded) is type(policy.model)
    found, expected = target_logprobs(Policy(loaded), packed()), target_logprobs(policy, packed())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected - target_logprobs(Policy(tiny(name)), packed())).abs().max() > 0.1
    plain = tiny(name)
    assert tensor_headers(tmp_path / "1").keys() == plain.state_dict().keys() - plain.all_tied_weights_keys


def test_bfloat16_adapters_are_merged_without_rounding(tmp_path: Path) -> None:
    """Rounded to bfloat16, most of a small update would be lost: the checkpoint would be another policy."""
    model = ModelSpec(dtype="bfloat16", parameter_dtype="bfloat16")
    policy = load_policy(EMBEDDED, model, train_spec("dft", adapter={"kind": "lora"}))
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.bfloat16}
    trained(policy, rate=0.05)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    save_checkpoint(policy, Prompts(tokenizer), make_canary(policy, random_samples(4)), tmp_path / "1", Ranks())
    weights = load_file(tmp_path / "1" / "model.safetensors")
    assert weights["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32
    assert weights["lm_head.weight"].dtype == torch.bfloat16
    loaded = Policy(AutoModelForCausalLM.from_pretrained(tmp_path / "1", dtype=torch.float32))
    found, expected = target_logprobs(loaded, packed()), target_logprobs(policy, packed())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_merging_leaves_the_policy_as_it_is() -> None:
    model = trained(adapted_policy(tiny_model())).model
    before = {name: tensor.clone() for name, tensor in whole(model).items()}
    merged = merged_state(model, whole)
    assert merged.keys() == tiny_model().state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole(model).items())
    assert merged_state(model, lambda model: {}) == {}  # what the other ranks hold
    plain = tiny_model()
    assert merged_state(plain, whole).keys() == plain.state_dict().keys()
