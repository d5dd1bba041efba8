"""Ray: whether it starts or answers, its nodes, its dashboard, and room for a sweep."""

from __future__ import annotations

import os
import platform
import shlex
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dft_sweeps.cli.checks.finding import Context, Finding, failed, in_short, ok, warning
from dft_sweeps.cli.checks.packages import install, requirement, spelled
from dft_sweeps.cli.checks.ray_settings import GIVE_TOKEN

DASHBOARD_SECONDS = 20
"""A machine that has just started Ray answers late, and to wait is better than to fail it falsely."""
TASK_SECONDS = 60
ROOM_SECONDS = 20
COMPARED = ("dft-sweeps", "ray", "torch", "transformers")
_SEVERAL = (
    "several Ray clusters run on this machine; Ray Train cannot tell which is its own, and may not free the CPUs of a "
    "trial that was stopped"
)
_LOGS = "/tmp/ray/session_latest/logs"
_ADDRESS = "ray start --head --port 6379   # on the cluster's head node; then --address HEAD:6379, open to this machine"

_GUARD = "RAY_AUTH_MODE=token ray start ...   # on every node, with one token; or let nobody else reach its ports"


def connection(context: Context) -> Finding:
    """Starts Ray here or connects to it, for the checks that follow."""
    from dft_sweeps.orchestration.cluster import ClusterUnavailable, cluster

    try:
        import ray
    except ImportError as error:
        return failed(f"`import ray` breaks: {error}", install(requirement("ray")))

    started = time.monotonic()
    try:
        context.cluster = context.resources.enter_context(cluster(context.address))
    except ClusterUnavailable as error:
        return failed(in_short(error), _connection_advice(context.address, str(error)))
    how = f"answered at {context.address}" if context.address else "started"
    facts, mode = context.cluster, os.environ.get("RAY_AUTH_MODE", "disabled").lower()
    return ok(
        f"Ray {ray.__version__} {how} in {time.monotonic() - started:.0f} s with {facts.cpus:g} CPUs, "
        f"{facts.gpus:g} GPUs; token authentication is {'on' if mode == 'token' else 'off'}"
    )


def _connection_advice(address: str | None, message: str) -> str:
    if "Version mismatch" in message:
        wanted = shlex.quote(spelled(requirement("ray")))
        python = f"Python {platform.python_version()}"
        return f"uv pip install {wanted}   # on every node, under {python}, as it is here; then restart the cluster"
    if "authentication" in message.lower():
        return GIVE_TOKEN
    return _ADDRESS if address else f"tail -n 50 {_LOGS}/{{gcs_server.out,raylet.err}}   # its reasons"


def nodes(context: Context) -> Finding:
    """Every node must have this package, and the versions of this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here, differences = installed_versions(), []
    asked = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(installed_versions).options(num_cpus=0, scheduling_strategy=there)
        asked[node["NodeManagerAddress"]] = task.remote()
    for name, answer in asked.items():
        try:
            found = ray.get(answer, timeout=TASK_SECONDS)
        except ray.exceptions.RayError as error:
            differences.append(f"{name} cannot run tasks of this package: {in_short(str(error).splitlines()[-1])}")
            continue
        other = [key for key in here if found[key] != here[key]]
        differences += [f"{name} has {key} {found[key]}, here is {here[key]}" for key in other]
    if not differences:
        return ok(f"{len(asked)} node(s) with the versions of this machine")
    advice = "install the same requirements there as here, then restart the cluster"
    return failed("; ".join(differences), advice)


def installed_versions() -> dict[str, str]:
    """Runs on a node. Builds of one version for CPUs and GPUs are the same version."""
    found = {"python": platform.python_version()}
    for name in COMPARED:
        try:
            found[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def dashboard(context: Context) -> Finding:
    """Asks the dashboard for the nodes as Ray Train's clean-up would: from inside a worker, without an address."""
    import ray

    from dft_sweeps.orchestration.cluster import ClusterUnavailable
    from services.jobs import OPEN_JOBS, asks_for_token

    mine = {node["NodeID"] for node in ray.nodes()}
    try:
        answer = ray.get(ray.remote(_seen_nodes).options(num_cpus=0).remote(), timeout=TASK_SECONDS)
    except ray.exceptions.GetTimeoutError:
        answer = f"no answer in {TASK_SECONDS} s"
    if isinstance(answer, str):
        if "multiple active Ray instances" in answer:
            return warning(_SEVERAL, "ray stop   # ends what `ray start` started; others end with their program")
        return failed(f"Ray's dashboard does not answer: {answer}", _dashboard_advice(context.address))
    if not mine & set(answer):
        return failed("the dashboard that answers is another cluster's", "unset RAY_ADDRESS RAY_API_SERVER_ADDRESS")
    if context.address:
        try:
            guarded = asks_for_token(ray.get_runtime_context().gcs_address)
        except ClusterUnavailable as error:
            return failed(in_short(error), _dashboard_advice(context.address))
        if not guarded:
            return warning(OPEN_JOBS, _GUARD)
    return ok("Ray's dashboard answers, so that stopped trials are cleaned up")


def _seen_nodes() -> list[str] | str:
    """Runs on a node. Ids of the nodes that the dashboard shows, or why it shows none."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        return [node.node_id for node in list_nodes(timeout=DASHBOARD_SECONDS)]
    except (RayStateApiException, ConnectionError, RuntimeError, ValueError) as error:
        return in_short(error)


def _dashboard_advice(address: str | None) -> str:
    if address:
        return "ray start --head --include-dashboard=true   # on the head node, which needs ray[default] for it"
    return f"tail -n 50 {_LOGS}/dashboard.{{log,err}}   # its reasons"


def room(context: Context) -> Finding:
    """Places what the smallest sweep takes: one engine and one trial."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    from dft_sweeps.spec.models import ExecutionSpec, PoolSpec
    from dft_sweeps.spec.plan import placement

    assert context.cluster is not None
    missing = placement(ExecutionSpec(), PoolSpec(), context.cluster)[1]
    if missing:
        return failed(missing, "ray start --address HEAD:6379   # on another machine, to add it; or take a larger one")
    bundles = [{"CPU": 1.0}, {"CPU": 1.0}]
    group = placement_group(bundles)
    placed = group.wait(ROOM_SECONDS)
    remove_placement_group(group)
    if placed:
        return ok("one trial (1 CPU) and one engine (1 CPU) fit")
    free: dict[str, Any] = ray.available_resources()
    found = f"{free.get('CPU', 0):g} of {context.cluster.cpus:g} CPUs are free, 2 are needed: a sweep would wait"
    return warning(found, "ray status   # shows what is used; `ray list actors --filter state=ALIVE` names the users")
