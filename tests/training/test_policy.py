from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import MicroBatch, micro_batches
from dft_sweeps.data.tokenizer import save_tokenizer
from dft_sweeps.objectives import make_objective
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ExecutionSpec, ModelSpec
from dft_sweeps.training.attention import BY_SAMPLE, SDPA, attending_with
from dft_sweeps.training.model_files import EMBEDDED, inspect_model
from dft_sweeps.training.policy import Policy, load_policy, target_logprobs
from tests.training.architectures import tiny
from tests.training.tiny_policy import CONTEXT, VOCABULARY, random_samples, tiny_model, train_spec

SFT, DFT, ASFT = make_objective("sft"), make_objective("dft"), make_objective("asft", beta=0.5)
BF16 = ModelSpec(dtype="bfloat16", parameter_dtype="bfloat16")


def one_row(sample: Sample) -> MicroBatch:
    (batch,) = micro_batches([sample], CONTEXT, CONTEXT)
    return batch


def packed(count: int = 8, seed: int = 0) -> MicroBatch:
    (batch,) = micro_batches(random_samples(count, seed), 10_000, 10_000)
    return batch


def gradients(policy: Policy, batch: MicroBatch, objective: Any = DFT) -> dict[str, Tensor]:
    policy.zero_grad()
    policy(batch, objective).objective.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.trained_parameters()}


def logprobs(model: PreTrainedModel, sample: Sample) -> Tensor:
    """Next-token log-probabilities of all words at a sample's targets by transformers, [targets, words], float64."""
    with torch.no_grad(), attending_with(model, "eager"):
        logits = model(input_ids=torch.tensor([sample.ids])).logits[0].double()
    return logits.log_softmax(-1)[sample.first_target - 1 : -1]


# --- against transformers ---------------------------------------------------------------------------------------------


def test_sft_is_the_cross_entropy_of_transformers() -> None:
    """A peer check: `model(labels=...).loss`, the mean over the targets of one sample."""
    model = tiny_model()
    sample = Sample(tuple(range(3, 40)), 9)
    ids = torch.tensor([sample.ids])
    labels = ids.clone()
    labels[:, : sample.prompt_length] = -100
    expected = model(input_ids=ids, labels=labels).loss
    found = Policy(model)(one_row(sample), SFT).objective / sample.targets
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("attention", [BY_SAMPLE, SDPA])
@pytest.mark.parametrize("name", ["qwen2", "mistral", "gpt2"])
def test_target_logprobs_are_those_of_transformers_in_the_order_of_the_rows(attention: str, name: str) -> None:
    model, samples = tiny(name), random_samples(8)
    for batch in micro_batches(samples, CONTEXT, 2 * CONTEXT):
        with attending_with(model, attention):
            found = iter(target_logprobs(Policy(model), batch).tolist())
        for ids, positions, labels in zip(batch.ids, batch.positions, batch.labels, strict=True):
            starts = [*(positions == 0).nonzero()[0].tolist(), len(ids)]
            for start, end in itertools.pairwise(starts):
                with torch.no_grad():
                    logits = model(input_ids=torch.from_numpy(ids[None, start:end])).logits[0]
                for row, label in zip(logits.log_softmax(-1), labels[start:end].tolist(), strict=True):
                    if label != -100:
                        assert next(found) == pytest.approx(row[label].item(), abs=1e-5)
        assert next(found, None) is None


def test_target_logprobs_leave_no_gradient() -> None:
    policy = Policy(tiny_model())
    assert not target_logprobs(policy, one_row(random_samples(1)[0])).requires_grad
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_the_column_scale_is_the_factor_on_each_loss() -> None:
    policy, batch = Policy(tiny_model()), packed()
    plain = policy(batch, DFT)
    batch.columns["scale"] = torch.rand(batch.targets).numpy()
    scaled = policy(batch, DFT)
    logp = target_logprobs(policy, batch).double()
    expected = (-logp.exp() * logp * torch.from_numpy(batch.columns["scale"])).sum()
    assert scaled.objective.item() == pytest.approx(expected.item(), rel=1e-5)
    assert scaled.nll == plain.nll and scaled.entropy == plain.entropy


# --- load_policy ------------------------------------------------------------------------------------------------------


def test_a_policy_is_loaded_as_the_specs_say() -> None:
    plain = load_policy(EMBEDDED)
    assert plain.dtype == torch.float32 and plain.padding_free and plain.reference is None
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}
    assert [name for name, _ in plain.trained_parameters()] == [name for name, _ in plain.model.named_parameters()]
    narrow = load_policy(EMBEDDED, BF16, train_spec(), ExecutionSpec(attention="sdpa"))
    assert narrow.dtype == torch.bfloat16 and not narrow.padding_free
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    mixed = load_policy(EMBEDDED, ModelSpec(dtype="bfloat16"))
    assert (mixed.dtype, mixed.model.dtype) == (torch.bfloat16, torch.float32)
    with pytest.raises(SpecError, match=r"attention is flex_attention, but for .* there is only: by_sample, sdpa"):
        load_policy(EMBEDDED, execution=ExecutionSpec(attention="flex_attention", gpus_per_worker=1))


def test_a_model_with_dropout_is_trained_without_it(tmp_path: Path) -> None:
    """Dropout would make a run differ from its repetition, and packed rows from padded ones."""
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, resid_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    samples = random_samples(6)
    for checkpointing in (False, True):
        policy = load_policy(tmp_path, execution=ExecutionSpec(gradient_checkpointing=checkpointing))
        packed = [policy(batch, DFT).objective.item() for batch in micro_batches(samples, CONTEXT, 10_000)]
        padded = [policy(batch, DFT).objective.item() for batch in micro_batches(samples, 1, 10_000)]
        assert sum(packed) == pytest.approx(sum(padded), rel=1e-6)


def test_a_vocabulary_larger_than_the_tokenizer_trains(tmp_path: Path) -> None:
    model = tiny_model()
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, CONTEXT)
    inspect_model(tmp_path)
    found = gradients(load_policy(tmp_path), packed(), SFT)
    assert found["lm_head.weight"].shape == (400, 32)
    assert found["lm_head.weight"][384:].norm() > 0  # words that no text has are pushed down
    assert found["model.embed_tokens.weight"][384:].norm() == 0
    assert all(gradient.isfinite().all() for gradient in found.values())


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, {"kind": "lora"}])
@pytest.mark.parametrize("model", [ModelSpec(), BF16])
def test_asft_compares_with_the_policy_before_training(adapter: dict[str, str] | None, model: ModelSpec) -> None:
    initial, samples = load_policy(EMBEDDED, model), random_samples(4)
    (batch,) = micro_batches(samples, 10_000, 10_000)
    policy = load_policy(EMBEDDED, model, train_spec("asft", adapter=adapter))
    assert (policy.reference is None) is (adapter is not None)
    assert policy(batch, ASFT).row_term.item() == pytest.approx(0, abs=1e-3)
    optimizer = torch.optim.SGD([parameter for _, parameter in policy.trained_parameters()], lr=1e-2)
    for _ in range(2):
        gradients(policy, batch, ASFT)
        optimizer.step()
    expected = 0.0
    if model == ModelSpec():
        for sample in samples:
            before, after = (logprobs(one.model, sample) for one in (initial, policy))
            expected += float((before.exp() * (before - after)).sum())
        assert expected > 0.1
        assert policy(batch, ASFT).row_term.item() == pytest.approx(expected, rel=1e-4)
    else:
        assert policy(batch, ASFT).row_term.item() > 0.1
    for name, parameter in initial.model.named_parameters():
        if adapter is None:
            assert torch.equal(policy.reference.get_parameter(name), parameter)
            assert not policy.reference.get_parameter(name).requires_grad
    assert sum(parameter.grad is not None for parameter in policy.parameters()) == len(policy.trained_parameters())


def test_an_objective_without_a_row_term_keeps_no_reference() -> None:
    assert load_policy(EMBEDDED, train=train_spec("dft")).reference is None
    with pytest.raises(AssertionError, match="there is none"):
        Policy(tiny_model())(packed(), ASFT)
