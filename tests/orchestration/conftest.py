"""A Ray cluster for the tests that train real trials."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two logical CPUs; the dashboard stays on, as everywhere."""
    import ray

    from dft_sweeps.orchestration.cluster import free_port

    port, quiet = free_port(), {"log_to_driver": False, "logging_level": "ERROR"}
    with pytest.MonkeyPatch.context() as patched:  # what stayed would lead later tests to a dashboard that is gone
        # By this, its processes find it where other clusters run on the machine.
        patched.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_port=port, **quiet)
        yield
        ray.shutdown()
