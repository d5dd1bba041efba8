"""LoRA checkpoints sampled side by side: what fails of one is not the others', and nothing is generated twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration.engines import ADAPTER_DIRECTORY
from dft_sweeps.orchestration.evaluations import ATTEMPTS, AttemptFailed, Evaluated, Evaluations
from dft_sweeps.orchestration.mailbox import Checkpoint
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.spec.models import SamplingSpec
from tests.orchestration.scripted_pool import ScriptedPool
from tests.orchestration.test_evaluations import (
    CANARY,
    checkpoint,
    evaluations,
    lora_checkpoint,
    prepared,  # noqa: F401
    samplings,
)


class CorruptStep4(ScriptedPool):
    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> None:
        super().adapt(directory, weights_digest, canary)
        if "step-4" in directory:
            raise RuntimeError("step-4 is corrupt")


class CountingPool(ScriptedPool):
    """Remembers every question it is asked, with the weights."""

    def __init__(self) -> None:
        super().__init__(adapters=4)
        self.questions: list[tuple[str, Request]] = []

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        self.questions += [(digest, request) for digest, requests in groups.items() for request in requests]
        return super().generate_of(groups)


def evaluated(side: Evaluations, count: int) -> tuple[dict[int, Evaluated], list[str]]:
    """By step, and what was said meanwhile."""
    found: dict[int, Evaluated] = {}
    said: list[str] = []
    while len(found) < count:
        event = side.landed.get(timeout=20)
        if isinstance(event, AttemptFailed):
            said.append(event.message)
        else:
            found[event.step] = event
    return found, said


def test_a_checkpoint_that_fails_fails_alone(prepared: PreparedSweep, tmp_path: Path) -> None:  # noqa: F811
    pool = CorruptStep4(adapters=4)
    with evaluations(prepared, tmp_path / "storage", pool) as side:
        side.submit("t-1", checkpoint(0), samplings(prepared))
        assert pool.asked.wait(10)
        for step in (3, 4, 5):
            side.submit("t-1", lora_checkpoint(tmp_path, step), samplings(prepared))
        pool.gate.set()
        found, said = evaluated(side, 4)
    assert [step for step, each in found.items() if each.error] == [4]
    assert f"evaluation failed {ATTEMPTS} times; the last time: step-4 is corrupt" in str(found[4].error)
    # Together once, then each alone.
    assert sorted(message[:7] for message in said) == ["step 3:", "step 4:", "step 4:", "step 5:"]
    assert [sorted(digests) for digests in pool.groups] == [[f"weights of {step}"] for step in (0, 3, 5)]


@pytest.mark.parametrize("asked_by", ["two checkpoints", "one checkpoint"])
def test_what_several_ask_for_at_once_is_generated_once(
    prepared: PreparedSweep,  # noqa: F811
    tmp_path: Path,
    asked_by: str,
) -> None:
    """Equal weights wait twice, asked for alike in part; or one sampling has two names."""
    pool, greedy = CountingPool(), SamplingSpec(temperature=0.0, max_new_tokens=96)
    first = lora_checkpoint(tmp_path, 3)
    (tmp_path / "step-6" / ADAPTER_DIRECTORY).mkdir(parents=True)
    again = Checkpoint(6, str(tmp_path / "step-6"), first.weights_digest, CANARY)
    three, two = ({"sampled": SamplingSpec(samples=count, max_new_tokens=96), "greedy": greedy} for count in (3, 2))
    with evaluations(prepared, tmp_path / "storage", pool) as side:
        side.submit("t-1", checkpoint(0), samplings(prepared))
        assert pool.asked.wait(10)
        if asked_by == "two checkpoints":
            side.submit("t-1", first, three)
            side.submit("t-2", again, two)
        else:
            side.submit("t-1", first, three | {"cold": greedy})
        pool.gate.set()
        found, _ = evaluated(side, 3 if asked_by == "two checkpoints" else 2)
    assert [each.error for each in found.values()] == [None] * len(found)
    assert all(set(each.results) >= {"sampled", "greedy"} for each in found.values())
    asked = [(request.prompt, request.temperature, request.n) for digest, request in pool.questions
             if digest == first.weights_digest]  # fmt: skip
    assert len(asked) == len(set(asked)) == 20 * (3 if asked_by == "two checkpoints" else 2)
