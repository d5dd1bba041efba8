"""Golden losses: a fixed tiny policy on fixed data gives the training curves kept in tests/golden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dft_sweeps.data.encode import Sample
from dft_sweeps.training.logprobs import all_logprobs
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.loops import curve, execution, run_loop
from tests.training.tiny_policy import random_samples, tiny_model, train_spec

GOLDEN = Path(__file__).parents[1] / "golden"
METRICS = ("train/objective", "train/nll", "train/mean_probability", "train/entropy", "train/grad_norm")


OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"kind": "sft"},
    "dft": {"kind": "dft"},
    "power": {"kind": "power", "alpha": 0.25},
    "focal": {"kind": "focal"},
    "eaft": {"kind": "eaft"},
    "psft": {"kind": "psft", "refresh": 2},
    "asft": {"kind": "asft"},
    "iw_sft": {"kind": "iw_sft"},
    "sentence_weighted": {"kind": "sentence_weighted", "mean": "geometric"},
}


def golden_run(objective: str) -> dict[str, list[float]]:
    """Eight steps at a rate at which the policy learns, with clipping, accumulation and two epochs."""
    settings = train_spec(
        OBJECTIVES[objective], batch_size=8, steps=8, learning_rate=5e-3, schedule={"warmup_ratio": 0.25}
    )
    # Runs of consecutive tokens, which can be learnt.
    samples = [
        Sample(tuple(3 + (sample.ids[0] + i) % 90 for i in range(len(sample.ids))), sample.prompt_length)
        for sample in random_samples(32)
    ]
    policy = Policy(tiny_model(), reference=tiny_model() if objective == "asft" else None)
    reference = all_logprobs(policy, samples, execution(), Ranks()) if objective == "iw_sft" else None
    steps = curve(list(run_loop(policy, samples, settings, reference=reference)))
    return {name: [step[name] for step in steps] for name in METRICS}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_golden_losses(objective: str) -> None:
    """After a change that is meant to change them: `python -m tests.training.test_loop_golden`, and say why."""
    expected = json.loads((GOLDEN / f"{objective}.json").read_text())
    found = golden_run(objective)
    assert found.keys() == expected.keys()
    for name in METRICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-6 if name != "train/grad_norm" else 1e-5), name


def test_the_golden_curves_learn_and_differ() -> None:
    sft, dft = (json.loads((GOLDEN / f"{objective}.json").read_text()) for objective in ("sft", "dft"))
    assert sft["train/nll"][0] == pytest.approx(dft["train/nll"][0], rel=1e-6)
    assert sft["train/nll"][-1] < sft["train/nll"][0] - 0.5
    assert sft["train/nll"][-1] < dft["train/nll"][-1]
    assert dft["train/mean_probability"][-1] > dft["train/mean_probability"][0]


def test_every_objective_starts_at_the_same_policy_and_goes_its_own_way() -> None:
    curves = {name: json.loads((GOLDEN / f"{name}.json").read_text()) for name in OBJECTIVES}
    starts = [curve["train/nll"][0] for curve in curves.values()]
    assert starts == pytest.approx([starts[0]] * len(curves), rel=1e-6)
    assert len({round(curve["train/nll"][-1], 6) for curve in curves.values()}) == len(curves)


if __name__ == "__main__":
    for name in OBJECTIVES:
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden_run(name), indent=1) + "\n")
