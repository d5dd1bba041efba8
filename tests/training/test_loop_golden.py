"""Golden losses: a fixed tiny policy on fixed data gives the training curves kept in tests/golden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dft_sweeps.data.encode import Sample
from dft_sweeps.training.loop import StepDone, train
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from tests.training.tiny_policy import CONTEXT, random_samples, tiny_model, train_spec

GOLDEN = Path(__file__).parents[1] / "golden"
METRICS = ("train/objective", "train/nll", "train/mean_probability", "train/entropy", "train/grad_norm")


def golden_run(objective: str) -> dict[str, list[float]]:
    """Eight steps at a rate at which the policy learns, with clipping, accumulation and two epochs."""
    settings = train_spec(objective, batch_size=8, steps=8, learning_rate=5e-3, schedule={"warmup_ratio": 0.25})
    # Runs of consecutive tokens, which can be learnt.
    samples = [
        Sample(tuple(3 + (sample.ids[0] + i) % 90 for i in range(len(sample.ids))), sample.prompt_length)
        for sample in random_samples(32)
    ]
    events = train(Policy(tiny_model()), samples, settings, frozenset(), 2 * CONTEXT, CONTEXT, Ranks())
    steps = [event.metrics for event in events if isinstance(event, StepDone)]
    return {name: [step[name] for step in steps] for name in METRICS}


@pytest.mark.parametrize("objective", ["sft", "dft"])
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


if __name__ == "__main__":
    for name in ("sft", "dft"):
        (GOLDEN / f"{name}.json").write_text(json.dumps(golden_run(name), indent=1) + "\n")
