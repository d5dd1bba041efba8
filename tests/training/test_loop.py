from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.training.loop import CheckpointReady, NonFiniteError, StepDone
from dft_sweeps.training.optimizer import learning_rate
from dft_sweeps.training.order import batch_indices
from dft_sweeps.training.policy import Policy
from tests.training.loops import curve, run_loop
from tests.training.tiny_policy import (
    CONTEXT,
    batch_gradients,
    before_each_step,
    random_samples,
    tiny_model,
    train_spec,
)

SAMPLES = random_samples(20)


def run(
    policy: Policy, evaluate_at: frozenset[int] = frozenset(), micro_batch_tokens: int = 2 * CONTEXT, **fields: object
) -> list[StepDone | CheckpointReady]:
    """Trains on SAMPLES; six samples a step, three steps, unless `fields` of the train spec say otherwise."""
    settings = train_spec(**{"batch_size": 6, "steps": 3} | fields)
    return list(run_loop(policy, SAMPLES, settings, evaluate_at, micro_batch_tokens))


def weights_of(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def test_events_come_in_order() -> None:
    events = run(Policy(tiny_model()), frozenset({0, 2, 3}))
    names = [(type(event).__name__, event.step) for event in events]
    assert names == [
        ("CheckpointReady", 0),
        ("StepDone", 1),
        ("StepDone", 2),
        ("CheckpointReady", 2),
        ("StepDone", 3),
        ("CheckpointReady", 3),
    ]


def test_at_a_checkpoint_the_policy_holds_the_weights_of_that_step() -> None:
    policy = Policy(tiny_model())
    start = weights_of(policy)
    held: dict[int, dict[str, Tensor]] = {}
    settings = train_spec(batch_size=6, steps=3, schedule={"kind": "constant"})
    for event in run_loop(policy, SAMPLES, settings, frozenset({0, 1, 3}), CONTEXT):
        if isinstance(event, CheckpointReady):
            held[event.step] = weights_of(policy)
    for step in (0, 1, 3):
        policy = Policy(tiny_model())
        if step:
            run(policy, steps=step, schedule={"kind": "constant"}, micro_batch_tokens=CONTEXT)
        for name, tensor in weights_of(policy).items():
            assert torch.equal(held[step][name], tensor), (step, name)
    assert not torch.equal(held[1]["model.lm_head.weight"], start["model.lm_head.weight"])


def test_without_evaluations_there_are_only_steps() -> None:
    assert [event.step for event in run(Policy(tiny_model()), batch_size=20, steps=4)] == [1, 2, 3, 4]


def test_the_same_run_twice_is_the_same_bit_for_bit() -> None:
    one, two, other = (Policy(tiny_model()) for _ in range(3))
    assert curve(run(one)) == curve(run(two)) != curve(run(other, seed=1))
    for name, tensor in weights_of(one).items():
        assert torch.equal(tensor, weights_of(two)[name]), name


def test_metrics_are_those_of_the_batch_under_the_weights_before_the_step() -> None:
    policy = Policy(tiny_model())
    before = copy.deepcopy(policy.model)
    (first, *_) = curve(run(policy, micro_batch_tokens=CONTEXT))
    batch = [SAMPLES[index] for index in batch_indices(1, train_spec(batch_size=6), len(SAMPLES))]
    rows, logp = [], []
    for sample in batch:
        with torch.no_grad():
            row = before(input_ids=torch.tensor([sample.ids])).logits[0].double().log_softmax(-1)
        rows.append(row[sample.prompt_length - 1 : -1])
        logp += [rows[-1][i, token].item() for i, token in enumerate(sample.ids[sample.prompt_length :])]
    targets = len(logp)
    assert first["train/nll"] == pytest.approx(-sum(logp) / targets, rel=1e-5)
    assert first["train/mean_probability"] == pytest.approx(sum(map(math.exp, logp)) / targets, rel=1e-5)
    assert first["train/objective"] == pytest.approx(-sum(math.exp(p) * p for p in logp) / targets, rel=1e-5)
    entropy = -sum((row.exp() * row).sum().item() for row in rows) / targets
    assert first["train/entropy"] == pytest.approx(entropy, rel=1e-5)
    gradients = batch_gradients(Policy(before), batch, "dft")
    norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients.values()))
    assert first["train/grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_counters_and_learning_rates() -> None:
    settings = train_spec(batch_size=6, steps=4, schedule={"warmup_ratio": 0.5})
    found = curve(run(Policy(tiny_model()), steps=4, schedule={"warmup_ratio": 0.5}))
    tokens = [sum(len(SAMPLES[i].ids) for i in batch_indices(step, settings, len(SAMPLES))) for step in range(1, 5)]
    assert [step["train/samples"] for step in found] == [6, 12, 18, 24]
    assert [step["train/tokens"] for step in found] == [sum(tokens[:count]) for count in range(1, 5)]
    rates = [learning_rate(step, 4, settings.learning_rate, settings.schedule) for step in range(1, 5)]
    assert [step["train/learning_rate"] for step in found] == rates


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_reported() -> None:
    def one_step(clip_norm: float) -> tuple[dict[str, float], float]:
        """The metrics, and the norm of the gradients that the optimizer saw."""
        policy, norms = Policy(tiny_model()), []
        with before_each_step(lambda: norms.append(nn.utils.get_total_norm([p.grad for p in policy.parameters()]))):
            (metrics,) = curve(run(policy, steps=1, optimizer={"clip_norm": clip_norm}))
        return metrics, norms[0].item()

    free, seen = one_step(1e9)
    norm = free["train/grad_norm"]
    assert free["train/clipped"] == 0.0 and seen == pytest.approx(norm, rel=1e-6)
    clipped, seen = one_step(norm / 4)
    assert clipped["train/clipped"] == 1.0 and seen == pytest.approx(norm / 4, rel=1e-4)
    assert clipped["train/grad_norm"] == norm


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_trial_before_the_step(poison: float) -> None:
    policy = Policy(tiny_model())
    settings = train_spec(batch_size=6, steps=3)
    events = run_loop(policy, SAMPLES, settings, micro_batch_tokens=CONTEXT)
    assert next(events).step == 1
    with torch.no_grad():
        policy.model.lm_head.weight[5, 5] = poison
    before = weights_of(policy)
    with pytest.raises(NonFiniteError, match="step 2: loss or gradient is not finite") as caught:
        next(events)
    indices = batch_indices(2, settings, len(SAMPLES))
    assert str(indices) in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).record == caught.value.record, "it crosses processes"
    record = json.loads(json.dumps(caught.value.record))
    assert (record["step"], record["samples"]) == (2, indices)
    assert record["sha256"][0] == hashlib.sha256(np.array(SAMPLES[indices[0]].ids, dtype="<i4").tobytes()).hexdigest()
    assert record["sums"]["nll"] in {"nan", "inf"} and record["gradient_norm"] in {"nan", "inf"}
    for name, tensor in weights_of(policy).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_fewer_samples_than_a_batch_are_refused_before_anything_runs() -> None:
    with pytest.raises(SpecError, match="only 20 samples"):
        run(Policy(tiny_model()), batch_size=21)


def test_frozen_parameters_stay() -> None:
    policy = Policy(tiny_model())
    policy.model.lm_head.requires_grad_(False)
    before = weights_of(policy)
    run(policy)
    after = weights_of(policy)
    assert torch.equal(after["model.lm_head.weight"], before["model.lm_head.weight"])
    assert not torch.equal(after["model.model.norm.weight"], before["model.model.norm.weight"])
