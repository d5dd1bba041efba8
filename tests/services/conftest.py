"""One Ray cluster, one pool and a few random checkpoints for all tests of the services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

os.environ["RAY_AUTH_MODE"] = "disabled"

import pytest

from tests.services.random_policies import ENGINE, Checkpoint, make_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three untied checkpoints of one shape; the pool starts on the first."""
    root = tmp_path_factory.mktemp("untied")
    return [make_checkpoint(root / str(seed), seed, tied=False) for seed in range(3)]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster; the dashboard stays on, as everywhere."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def pool(cluster: None, checkpoints: list[Checkpoint]) -> Iterator[object]:
    """A pool of one engine with room for two adapters, whose leases end 6 s after their owner fell silent."""
    from services.pool import PoolSettings, start_pool

    settings = replace(ENGINE, max_adapters=2, max_adapter_rank=4)
    pool = start_pool(PoolSettings(settings, lease_timeout_s=6.0), checkpoints[0].directory)
    yield pool
    pool.shutdown()
