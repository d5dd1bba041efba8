"""An engine of two processes, each with half of every layer, is the engine of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from dft_sweeps.evaluation.generator import Completion
from services.engine import CanaryError
from services.lease import Engine
from services.pool import Pool, PoolSettings, start_pool
from tests.services.random_policies import (
    ENGINE,
    Checkpoint,
    make_checkpoint,
    random_adapter,
    random_prompts,
    require_works,
    sampled,
    wait_until_gone,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    root = tmp_path_factory.mktemp("tied")
    return [make_checkpoint(root / str(seed), seed, tied=True) for seed in range(2)]


@pytest.fixture(scope="module")
def split(cluster: None, tied: list[Checkpoint]) -> Iterator[Pool]:
    settings = replace(ENGINE, tensor_parallel=2, max_adapters=1, max_adapter_rank=4)
    pool = start_pool(PoolSettings(settings, num_cpus=0.0, name="split"), tied[0].directory)
    yield pool
    pool.shutdown()


def _processes(engine: Engine) -> list[int]:
    process = psutil.Process(ray.get(engine._actor.ready.remote()))
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


def test_two_processes_hold_the_same_policy_through_reloads(split: Pool, tied: list[Checkpoint]) -> None:
    """Tied weights: the output matrix is packed again in both processes, or the canary would fail."""
    with split.lease() as engine:
        assert len(_processes(engine)) >= 3
        for checkpoint in (tied[1], tied[0], tied[1]):
            require_works(engine, checkpoint)
            report = engine.swap(tied[0].directory, tied[0].digest, tied[0].canary)
            assert report.canary_max_difference < 1e-4
        requests = sampled(random_prompts(4, 20, seed=2), n=4, temperature=1.0)
        assert engine.generate(requests) == engine.generate(requests)


def test_adapter_is_split_as_the_layers_are(split: Pool, tied: list[Checkpoint], tmp_path: Path) -> None:
    """Its canary, made by one process, is met by two, and a batch of adapter and base gives each its own."""
    adapter = random_adapter(tied[1], tmp_path / "adapter")
    requests = sampled(random_prompts(4, 40, seed=2))
    with split.lease() as engine:
        require_works(engine, tied[1])
        base = engine.generate(requests)
        report = engine.adapt(adapter.directory, adapter.digest, adapter.canary)
        assert report.canary_max_difference < 1e-4
        adapted = engine.generate(requests)
        together = engine.generate_of({adapter.digest: requests, tied[1].digest: requests})
    assert _tokens(together[tied[1].digest]) == _tokens(base) != _tokens(adapted)
    assert _tokens(together[adapter.digest]) == _tokens(adapted)


def _tokens(completions: list[list[Completion]]) -> list[tuple[int, ...]]:
    return [completion.token_ids for [completion] in completions]


def test_wrong_weights_fail_by_the_canary_and_the_next_lease_works(split: Pool, tied: list[Checkpoint]) -> None:
    with split.lease() as engine:
        processes = _processes(engine)
        with pytest.raises(CanaryError):
            engine.swap(tied[1].directory, "wrong", tied[0].canary)
    with split.lease() as engine:
        for process in processes:
            wait_until_gone(process, seconds=20)
        require_works(engine, tied[1])


def test_killed_engine_leaves_no_process_behind(split: Pool, tied: list[Checkpoint]) -> None:
    with split.lease() as engine:
        processes = _processes(engine)
        os.kill(processes[0], signal.SIGKILL)
        for process in processes:
            wait_until_gone(process, seconds=20)
    with split.lease() as engine:
        require_works(engine, tied[0])
        processes = _processes(engine)
    split.shutdown()
    for process in processes:
        wait_until_gone(process, seconds=20)
