from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.packing import MicroBatch, micro_batches
from dft_sweeps.objectives import dft, sft
from dft_sweeps.training.policy import Policy, load_policy, target_logprobs
from tests.training.tiny_policy import CONTEXT, VOCABULARY, random_samples, tiny_model


def one_row(sample: Sample) -> MicroBatch:
    (batch,) = micro_batches([sample], CONTEXT, CONTEXT)
    return batch


def test_sft_is_the_cross_entropy_of_transformers() -> None:
    """A peer check: `model(labels=...).loss`, the mean over the targets of one sample."""
    model = tiny_model()
    sample = Sample(tuple(range(3, 40)), 9)
    ids = torch.tensor([sample.ids])
    labels = ids.clone()
    labels[:, : sample.prompt_length] = -100
    expected = model(input_ids=ids, labels=labels).loss
    found = Policy(model)(one_row(sample), sft, 1 / (len(sample.ids) - sample.prompt_length)).objective
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_target_logprobs_are_those_of_transformers_in_the_order_of_the_rows() -> None:
    model = tiny_model()
    samples = random_samples(8)
    for batch in micro_batches(samples, CONTEXT, 2 * CONTEXT):
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
    target_logprobs(policy, one_row(random_samples(1)[0]))
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    narrow, wide = Policy(tiny_model(), torch.bfloat16), Policy(tiny_model())
    batch = one_row(random_samples(1)[0])
    found, expected = (policy(batch, dft, 1 / batch.targets) for policy in (narrow, wide))
    found.objective.backward()
    assert found.nll.item() == pytest.approx(expected.nll.item(), rel=2e-2)
    assert found.nll.item() != expected.nll.item()
    for parameter in narrow.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()
    assert torch.equal(target_logprobs(narrow, batch), target_logprobs(wide, batch))  # always float32


def test_a_model_with_dropout_is_trained_without_it(tmp_path: Path) -> None:
    """Dropout would make a run differ from its repetition, and packed rows from padded ones."""
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, resid_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    samples = random_samples(6)
    policy = load_policy(tmp_path)
    packed = [policy(batch, dft, 1.0).objective.item() for batch in micro_batches(samples, CONTEXT, 10_000)]
    padded = [policy(batch, dft, 1.0).objective.item() for batch in micro_batches(samples, 1, 10_000)]
    assert sum(packed) == pytest.approx(sum(padded), rel=1e-6)
