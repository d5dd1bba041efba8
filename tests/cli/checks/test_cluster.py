"""A real Ray cluster of two CPUs, and what can be wrong with it or with an engine on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from dft_sweeps.cli.checks import cluster, engine
from dft_sweeps.cli.checks.finding import Context
from dft_sweeps.spec.plan import ClusterFacts
from dft_sweeps.training.model_files import EMBEDDED
from tests.cli.checks.advised import advised


def test_no_cluster_at_the_address(context: Context, free_port: int) -> None:
    context.address = f"127.0.0.1:{free_port}"
    advised(cluster.connection(context), "failed", f"nothing answers at {context.address}", "ray start --head")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """A cluster of two CPUs that this process is connected to, as the context that `ray.init` gives."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        import ray

        yield ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False)
        ray.shutdown()


@pytest.mark.ray
def test_the_dashboards_address_is_not_the_clusters(context: Context, ray_cluster: Any) -> None:
    context.address = ray_cluster.dashboard_url
    advised(cluster.connection(context), "failed", "perhaps Ray's dashboard", "--address HEAD:6379")


_CONNECT = """
import sys
from pathlib import Path
from dft_sweeps.cli.checks.cluster import connection
from dft_sweeps.cli.checks.finding import Context
context = Context(Path(), "", sys.argv[1], Path())
with context.resources:
    finding = connection(context)
    print(finding.status, finding.found, finding.advice, sep="\\n")
"""


@pytest.mark.ray
def test_a_cluster_of_another_ray(ray_cluster: Any) -> None:
    """The cluster says what it is in its key-value store; there, it is made an older one."""
    from ray._private.worker import global_worker

    address = ray_cluster.address_info["gcs_address"]
    store, key = global_worker.gcs_client, b"CLUSTER_METADATA"
    metadata = store.internal_kv_get(key, b"cluster")
    store.internal_kv_put(key, json.dumps(json.loads(metadata) | {"ray_version": "2.50.1"}).encode(), True, b"cluster")
    try:
        done = subprocess.run([sys.executable, "-c", _CONNECT, address], capture_output=True, text=True)
    finally:
        store.internal_kv_put(key, metadata, True, b"cluster")
    assert done.stdout.startswith("failed\n") and "Version mismatch" in done.stdout, done
    assert "uv pip install 'ray[default,serve,train,tune]==2.60.0'   # on every node" in done.stdout
    done = subprocess.run([sys.executable, "-c", _CONNECT, address], capture_output=True, text=True)
    assert done.stdout.startswith(f"ok\nRay 2.60.0 answered at {address}") and "2 CPUs" in done.stdout, done


@pytest.mark.ray
def test_nodes_with_other_packages(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.nodes(context).status == "ok"
    monkeypatch.setattr(cluster, "version", lambda name: "1.0" if name == "transformers" else version(name))
    there = version("transformers")
    advised(cluster.nodes(context), "failed", f"has transformers {there}, here is 1.0", "install the same requirements")


@pytest.mark.ray
def test_no_room(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    context.cluster = ClusterFacts(2.0, 0.0)
    assert cluster.room(context).status == "ok"
    monkeypatch.setattr(cluster, "ROOM_SECONDS", 1)
    other = placement_group([{"CPU": 1.0}])
    assert other.wait(30)
    try:
        advised(cluster.room(context), "warning", "1 of 2 CPUs are free, 2 are needed", "ray status")
    finally:
        remove_placement_group(other)
    context.cluster = ClusterFacts(1.0, 0.0)
    advised(cluster.room(context), "failed", "too few CPUs: the cluster has 1", "ray start --address")


def test_an_engine_whose_model_is_damaged(context: Context, tmp_path: Path) -> None:
    context.model_directory = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    context.cluster = ClusterFacts(2.0, 0.0)
    os.truncate(context.model_directory / "model.safetensors", 100_000)
    advised(engine.engine(context), "failed", "model.safetensors: truncated", "--reinstall-package dft-sweeps")


@pytest.mark.ray
def test_an_engine_that_does_not_start(context: Context, ray_cluster: Any, tmp_path: Path) -> None:
    """transformers goes by `model_type`, vLLM by `architectures`."""
    context.model_directory = Path(shutil.copytree(EMBEDDED, tmp_path / "model"))
    context.cluster = ClusterFacts(2.0, 0.0)
    config = json.loads((context.model_directory / "config.json").read_text())
    (context.model_directory / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    advised(engine.engine(context), "failed", "NoSuchForCausalLM", "VLLM_LOGGING_LEVEL=INFO dft-sweeps doctor")


def test_an_engine_without_memory_is_told_so() -> None:
    assert engine._advice("ValueError: No available memory for the cache blocks.").startswith("ps aux --sort -rss")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("answer", "status", "found", "advice"),
    [
        (
            "Found multiple active Ray instances: {...}",
            "warning",
            "several Ray clusters run on this machine",
            "ray stop",
        ),
        (["0" * 56], "failed", "another cluster's", "unset RAY_ADDRESS"),
    ],
)
def test_a_dashboard_of_another_cluster(
    answer: list[str] | str,
    status: str,
    found: str,
    advice: str,
    context: Context,
    ray_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_seen_nodes", lambda: answer)
    advised(cluster.dashboard(context), status, found, advice)


@pytest.mark.ray
def test_jobs_that_ask_for_no_token(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's own word decides, not what this machine has set."""
    import ray

    mine = [node["NodeID"] for node in ray.nodes()]
    monkeypatch.setattr(cluster, "_seen_nodes", lambda: mine)
    assert cluster.dashboard(context).status == "ok"
    context.address = ray_cluster.address_info["gcs_address"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    advised(cluster.dashboard(context), "warning", "asks for no token", "RAY_AUTH_MODE=token ray start")
    monkeypatch.setattr("services.jobs.asks_for_token", lambda address: address == context.address)
    assert cluster.dashboard(context).status == "ok"


@pytest.mark.ray
def test_a_dead_dashboard(context: Context, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test of this cluster, which its workers are told to ask: others may run on a developer's machine."""
    address, ask = ray_cluster.address_info["gcs_address"], cluster._seen_nodes

    def ask_this_cluster() -> list[str] | str:
        os.environ["RAY_ADDRESS"] = address
        return ask()

    monkeypatch.setattr(cluster, "_seen_nodes", ask_this_cluster)
    assert cluster.dashboard(context).status == "ok"
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # the dashboard's own children end with it
            if "ray/dashboard/dashboard.py" in " ".join(process.cmdline()):
                process.kill()
                process.wait()
    advised(cluster.dashboard(context), "failed", "Ray's dashboard does not answer", "dashboard.{log,err}")
