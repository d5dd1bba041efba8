"""The process group of a trial's workers: where it listens, and what is left when it cannot be made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.orchestration.real_trials import sweep


@pytest.mark.parametrize("set_before", ["", "an-operators"])
def test_workers_listen_where_the_cluster_knows_their_node(monkeypatch: pytest.MonkeyPatch, set_before: str) -> None:
    from dft_sweeps.orchestration.process_group import listen_at_the_nodes_address

    [address, *_] = [each.address for each in psutil.net_if_addrs()["lo"]]
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", set_before)
    if not set_before:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    listen_at_the_nodes_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == (set_before or "lo")


@pytest.fixture
def unconnected(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster whose processes listen nowhere."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GLOO_SOCKET_IFNAME", "nowhere")
        request.getfixturevalue("cluster")
        yield


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.faults
def test_workers_that_cannot_connect_fail_their_trial_and_leave_its_room(unconnected: None, tmp_path: Path) -> None:
    """The second attempt needs the room of the first: it fails as that did, and does not wait for ever."""
    from ray.util import placement_group_table

    swept = sweep(tmp_path / "storage", "execution.workers=2", "execution.max_failures=1")
    assert list(swept.outcome.failed) == ["trial"]
    assert len([line for line in swept.lines if "interrupted: " in line and "nowhere" in line]) == 2, swept.text
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
