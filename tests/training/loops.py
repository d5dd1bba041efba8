"""The training loop on a policy, as the tests run it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import ExecutionSpec, TrainSpec
from dft_sweeps.training.logprobs import Column
from dft_sweeps.training.loop import CheckpointReady, StepDone, train
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from tests.training.tiny_policy import CONTEXT

VARYING = ("train/tokens_per_second", "train/peak_memory_gib")
"""Metrics that are measured, not computed."""


def execution(micro_batch_tokens: int = 2 * CONTEXT, pack_length: int = CONTEXT) -> ExecutionSpec:
    """Not validated: a pack length of 1 makes rows that no two samples fit in."""
    return ExecutionSpec().model_copy(update={"micro_batch_tokens": micro_batch_tokens, "pack_length": pack_length})


def run_loop(
    policy: Policy,
    samples: Sequence[Sample],
    settings: TrainSpec,
    evaluate_at: frozenset[int] = frozenset(),
    micro_batch_tokens: int = 2 * CONTEXT,
    pack_length: int = CONTEXT,
    ranks: Ranks | None = None,
    reference: Column | None = None,
) -> Iterator[StepDone | CheckpointReady]:
    state = TrainState(policy, settings)
    return train(state, samples, evaluate_at, execution(micro_batch_tokens, pack_length), ranks or Ranks(), reference)


def computed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in VARYING}


def curve(events: Sequence[StepDone | CheckpointReady]) -> list[dict[str, float]]:
    """The computed metrics of all steps."""
    return [computed(event.metrics) for event in events if isinstance(event, StepDone)]
