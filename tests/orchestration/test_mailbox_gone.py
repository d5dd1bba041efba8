from __future__ import annotations

from types import SimpleNamespace
from typing import NoReturn

import pytest
import ray.exceptions

from dft_sweeps.orchestration.cluster import ClusterUnavailable
from dft_sweeps.orchestration.mailbox import take_events


@pytest.mark.parametrize("error", [ray.exceptions.ActorDiedError(), ray.exceptions.OutOfMemoryError("killed")])
def test_a_mailbox_that_is_gone_is_an_outage_whatever_ended_it(error: Exception) -> None:
    def take(timeout_s: float) -> NoReturn:
        raise error

    with pytest.raises(ClusterUnavailable, match="the same command takes the sweep up again"):
        take_events(SimpleNamespace(take=SimpleNamespace(remote=take)), 0.1)
