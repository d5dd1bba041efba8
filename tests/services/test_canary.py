"""Engines that hold wrong weights: the canary finds them, the pool replaces them, and the next lease is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
from transformers import AutoTokenizer

from dft_sweeps.data.encode import encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import load_demonstrations
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.spec.models import ArithmeticSource, DataSpec, ExecutionSpec, TrainSpec
from dft_sweeps.training.checkpoint import make_canary, save_checkpoint
from dft_sweeps.training.loop import CheckpointReady, train
from dft_sweeps.training.model_files import EMBEDDED
from dft_sweeps.training.policy import load_policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import TrainState
from services.engine import CanaryError
from services.engine_actor import EngineError
from services.lease import Engine
from services.pool import Pool
from tests.services.random_policies import ENGINE, Checkpoint, random_prompts, require_works, sampled

pytestmark = pytest.mark.ray

WARM_UP = 40
"""Steps of warm-up of a run of 400 at the paper's rate, of which only the first few are taken."""


@pytest.fixture(scope="module")
def warm_up(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """The embedded policy after 0 to 8 steps of DFT."""
    settings = TrainSpec.model_validate(
        {
            "objective": {"kind": "dft"},
            "learning_rate": 5e-5,
            "batch_size": 4,
            "steps": 10 * WARM_UP,
            "schedule": {"kind": "cosine", "warmup_ratio": 0.1},
        }
    )
    source = ArithmeticSource(kind="arithmetic", samples=10 * WARM_UP * 4, wrong_steps=0.05, seed=1)
    prompts = Prompts(AutoTokenizer.from_pretrained(EMBEDDED))
    samples = encode(load_demonstrations(source, Path()).rows, DataSpec(source=source), prompts)
    policy, root = load_policy(EMBEDDED), tmp_path_factory.mktemp("warm_up")

    def steps() -> Iterator[Checkpoint]:
        for event in train(TrainState(policy, settings), samples, frozenset(range(9)), ExecutionSpec(), Ranks()):
            if isinstance(event, CheckpointReady):
                canary, directory = make_canary(policy, samples), root / str(event.step)
                yield Checkpoint(str(directory), save_checkpoint(policy, prompts, canary, directory, Ranks()), canary)

    return list(islice(steps(), 9))


def _patched(engine: Engine, change: Callable[[Any], None]) -> None:
    """Runs `change` in the engine's own process."""
    ray.get(engine._actor.__ray_call__.remote(change))


def _skip_cache_reset(actor: Any) -> None:
    actor._engine._reset_prefix_cache = lambda: None


def _swap_half(actor: Any) -> None:
    """Only the first layers of the next checkpoint arrive; the others, and what is outside layers, stay."""
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    whole = DefaultModelLoader.get_all_weights

    def half(*arguments: Any) -> Iterator[tuple[str, Any]]:
        return (entry for entry in whole(*arguments) if entry[0].startswith(("model.layers.0.", "model.layers.1.")))

    DefaultModelLoader.get_all_weights = half


@pytest.mark.parametrize("fault", [_skip_cache_reset, _swap_half])
def test_faulty_reload_fails_by_the_canary_and_the_next_lease_works(
    pool: Pool, checkpoints: list[Checkpoint], fault: Callable[[Any], None]
) -> None:
    with pool.lease() as engine:
        require_works(engine, checkpoints[0])
        _patched(engine, fault)
        broken = ray.get(engine._actor.ready.remote())
        with pytest.raises(CanaryError, match="not that checkpoint's weights"):
            engine.swap(checkpoints[1].directory, checkpoints[1].digest, checkpoints[1].canary)
        with pytest.raises(EngineError, match=r"the engine is broken: its swap to .* did not finish"):
            engine.generate_of({checkpoints[0].digest: sampled(random_prompts(1, 8, seed=0))})
    with pool.lease() as engine:
        assert ray.get(engine._actor.ready.remote()) != broken
        require_works(engine, checkpoints[1])


def test_checkpoint_of_five_warm_up_steps_earlier_fails_by_the_canary(pool: Pool, warm_up: list[Checkpoint]) -> None:
    """The first steps change least: their rates are the lowest. The canaries tell even neighbours apart."""
    margins = [_difference(warm_up[step].canary, warm_up[step - 5].canary) for step in range(5, 9)]
    assert min(margins) > 20 * ENGINE.canary_tolerance
    assert min(_difference(a.canary, b.canary) for a, b in pairwise(warm_up)) > 1e-3
    with pool.lease() as engine:
        for checkpoint in warm_up:
            report = engine.swap(checkpoint.directory, checkpoint.digest, checkpoint.canary)
            assert report.canary_max_difference < ENGINE.canary_tolerance / 20
        broken = ray.get(engine._actor.ready.remote())
        with pytest.raises(CanaryError, match=f"differs by {margins[1]:.3g} nats .* not that checkpoint's weights"):
            engine.swap(warm_up[1].directory, warm_up[6].digest, warm_up[6].canary)
    with pool.lease() as engine:
        assert ray.get(engine._actor.ready.remote()) != broken
        require_works(engine, warm_up[6])


def _difference(one: Canary, other: Canary) -> float:
    rows = zip(one.logprobs, other.logprobs, strict=True)
    return max(abs(a - b) for row in rows for a, b in zip(*row, strict=True))
