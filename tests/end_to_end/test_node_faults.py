"""The command on a cluster of three nodes, of which the one that trains is removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from dft_sweeps.orchestration.cluster import free_port
from tests.end_to_end.disturbing import DRAWS, Strike, database, dice, require_whole, sweep
from tests.orchestration.real_trials import saved_step

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OURS = ("RayTrainWorker", "TrainController", "ImplicitFunc", "EngineActor", "ServeReplica", "Mailbox")


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that computes nothing, and two nodes of two CPUs."""
    dashboard = free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{dashboard}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def raylet(node: Any) -> psutil.Process:
    [info] = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def at_work(node: Any) -> list[str]:
    """Titles of the node's processes that belong to a sweep."""
    titles = [" ".join(process.cmdline()) for process in raylet(node).children(recursive=True)]
    return [title for title in titles if any(kind in title for kind in OURS)]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_trials_of_a_node_that_is_removed_go_on_elsewhere(nodes: Cluster, tmp_path: Path, draw: int) -> None:
    environment = {"RAY_AUTH_MODE": "disabled"}
    whole = sweep(tmp_path / "whole", "--address", nodes.address, environment=environment)
    points = require_whole(whole, database(tmp_path / "whole"))

    step = dice("node removed", draw).randint(1, 11)
    storage = tmp_path / "storage"
    gone: list[list[str]] = []
    strike = Strike(lambda: saved_step(storage) >= step, remove_the_one_that_trains(nodes, gone))
    disturbed = sweep(storage, "--address", nodes.address, strike=strike, environment=environment)
    print("\n".join(disturbed.lines), gone)
    require_whole(disturbed, database(storage), points)
    assert len(gone) == 1 and len(nodes.list_all_nodes()) == 2
    recovered_s = strike.recovered_s(disturbed, "interrupted: ", "resumed at step|: started")
    print(f"step {step}: goes on elsewhere after {recovered_s:.0f} s")
    deadline = time.monotonic() + 30
    while left := [title for node in nodes.list_all_nodes() for title in at_work(node)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def remove_the_one_that_trains(nodes: Cluster, gone: list[list[str]]) -> Callable[[int, str], None]:
    def remove(pid: int, mark: str) -> None:
        [node] = [node for node in nodes.worker_nodes if any("RayTrainWorker" in title for title in at_work(node))]
        gone.append(at_work(node))
        nodes.remove_node(node, allow_graceful=False)

    return remove
