"""The command on a cluster of three nodes, of which the one that trains is removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from dft_sweeps.orchestration.cluster import free_port
from tests.end_to_end.conftest import Whole
from tests.end_to_end.disturbing import DRAWS, Strike, database, dice, require_whole, sweep
from tests.end_to_end.running import title
from tests.orchestration.real_trials import saved_step

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2700)]
UNGUARDED = {"RAY_AUTH_MODE": "disabled"}
OURS = ("RayTrainWorker", "TrainController", "ImplicitFunc", "EngineActor", "ServeReplica", "Mailbox")


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head that computes nothing, and two nodes of two CPUs."""
    dashboard = free_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{dashboard}")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": dashboard}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=2)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


def raylet(node: Any) -> psutil.Process:
    [info] = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def at_work(node: Any, kinds: Sequence[str] = OURS) -> list[psutil.Process]:
    """The node's processes that belong to a sweep."""
    return [
        process for process in raylet(node).children(recursive=True) if any(kind in title(process) for kind in kinds)
    ]


def trainers(nodes: Cluster) -> list[psutil.Process]:
    return [process for node in nodes.worker_nodes for process in at_work(node, ["RayTrainWorker"])]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_trials_of_a_node_that_is_removed_go_on_elsewhere(
    whole: Whole, nodes: Cluster, tmp_path: Path, draw: int
) -> None:
    step = dice("node removed", draw).randint(1, 11)
    storage = tmp_path / "storage"
    gone: list[list[str]] = []
    remove = remove_the_one_that_trains(nodes, gone)
    strike = Strike(lambda: saved_step(storage) >= step, remove, still=lambda mark: trainers(nodes))
    disturbed = sweep(storage, "--address", nodes.address, strike=strike, environment=UNGUARDED)
    print("\n".join(disturbed.lines), gone)
    require_whole(disturbed, database(storage), whole.points)
    assert len(gone) == 1 and len(nodes.list_all_nodes()) == 2
    # The trial may just have ended, and then it is the next one that is interrupted.
    recovered_s = strike.recovered_s(disturbed, "interrupted: ", "resumed at step|: started;")
    print(f"step {step}: goes on elsewhere after {recovered_s:.1f} s")
    deadline = time.monotonic() + 60
    while left := [title(process) for node in nodes.list_all_nodes() for process in at_work(node)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def remove_the_one_that_trains(nodes: Cluster, gone: list[list[str]]) -> Callable[[int, str], None]:
    def remove(pid: int, mark: str) -> None:
        [node] = [node for node in nodes.worker_nodes if at_work(node, ["RayTrainWorker"])]
        gone.append([title(process) for process in at_work(node)])
        nodes.remove_node(node, allow_graceful=False)

    return remove
