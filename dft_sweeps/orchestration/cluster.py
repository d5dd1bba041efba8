"""Connecting to a Ray cluster, or starting one on this machine, and leaving no process of it behind."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import psutil

from dft_sweeps.orchestration.interrupts import heed_interrupts, uninterrupted
from dft_sweeps.spec.placement import ClusterFacts, Resources

PROBE_S = 5
DRIVER_MEMORY = 700 * 2**20
"""What a trial's driver takes with the processes that Ray Train starts beside it, in bytes (measured in
tests/bench/simulation.py). Asked for, so that Ray spreads the drivers of many trials over the nodes; any share of a CPU
would keep a driver's own workers from the last free CPU for ever."""
_LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 30_000)
"""Below those that the kernel gives to whoever asks for any, which would take ours before it is used, seconds later."""
_ACCELERATOR = "accelerator_type:"
"""Before the kind of a node's GPUs, among its resources."""
_PROCESSORS = ("x86_64", "aarch64", "arm64")
"""Ray does not say which its nodes have."""
_MARK = "DFT_SWEEPS_CLUSTER"
"""Environment variable by which every process of a cluster started here is known, however it was started."""

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # Train looks at its workers this often; 2 s delays start and end
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; ours are printed instead
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow holds the curves; no CSV, JSON and TensorBoard copies
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that calls Ray after its end gets an error, not a new cluster
    "RAY_worker_maximum_startup_concurrency": "16",  # a trial is four processes: with fewer, Ray warns
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment(address: str | None) -> None:
    """Sets what Ray reads from the environment when it is imported; to be called before that.

    A cluster of our own asks for a token that exists in its processes' environment only, and its processes find its
    own dashboard even where others run on the machine. At an address, the user's own Ray settings hold.
    """
    assert "ray" not in sys.modules, "Ray was imported before its environment was set"
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ[_MARK] = secrets.token_hex(8)
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{_LOOPBACK}:{free_port()}"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def free_port() -> int:
    """A TCP port that nothing uses on this machine now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones. Raises ClusterUnavailable."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, 100):  # a seeded generator would draw the same in every process
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterUnavailable(f"no port from {_PORTS.start} to {_PORTS.stop} is free")


class ClusterUnavailable(RuntimeError):
    """No Ray cluster answers at the address, or none can be started here."""


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[ClusterFacts]:
    """A connection to the Ray cluster at `address`, or to one started on this machine for the block's duration.

    `set_environment` was called with the same address. The dashboard of a cluster started here listens on
    loopback; its other ports ask for a token. The dashboard stays on: Ray Train's cleaner of placement groups works
    through it.

    Raises:
        ClusterUnavailable: nothing answers at the address, or something that is no Ray cluster or refuses us.
    """
    if address and (unheard := nothing_at(address)):
        raise ClusterUnavailable(unheard)
    import ray

    own = {
        "num_cpus": len(os.sched_getaffinity(0)),
        "include_dashboard": True,
        "dashboard_port": int(os.environ.get("RAY_API_SERVER_ADDRESS", ":8265").rpartition(":")[2]),
    }
    where = (
        f"no Ray cluster lets this command in at {address}; if there is one, is the token that RAY_AUTH_MODE and "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH name here its own?"
        if address
        else "Ray does not start on this machine"
    )
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
    except SystemExit as error:  # how Ray ends when what answers is no Ray cluster
        raise ClusterUnavailable(where) from error
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise ClusterUnavailable(f"{where} ({error})") from error
    heed_interrupts()  # Ray has set handlers of its own
    try:
        yield cluster_facts()
    finally:
        with uninterrupted():
            ray.shutdown()
            if address is None:
                _end_strays(os.environ[_MARK])


def cluster_facts() -> ClusterFacts:
    """What the connected cluster has now."""
    import ray

    return _facts([node["Resources"] for node in ray.nodes() if node["Alive"]])


def nodes_by_id() -> dict[str, Resources]:
    """What each node of the connected cluster has."""
    import ray

    return {node["NodeID"]: _resources(node["Resources"]) for node in ray.nodes() if node["Alive"]}


def _resources(node: Mapping[str, float]) -> Resources:
    return Resources(node.get("CPU", 0.0), node.get("GPU", 0.0))


def _facts(nodes: Sequence[Mapping[str, float]]) -> ClusterFacts:
    """Args: the resources of each node, as Ray counts them."""
    by_node = tuple(map(_resources, nodes))
    marks = sorted({name for node in nodes for name in node if name.startswith(_ACCELERATOR)})
    # Of an A100 with 40 GB Ray says "A100-40G", its driver "NVIDIA A100-SXM4-40GB".
    devices = tuple(mark.removeprefix(_ACCELERATOR).split("-")[0] for mark in marks)
    cpus, gpus = (sum(amounts) for amounts in zip(*by_node, strict=True))
    drivers = sum(int(node.get("memory", 0.0) // DRIVER_MEMORY) for node in nodes)
    return ClusterFacts(cpus, gpus, by_node, (*_PROCESSORS, *devices), drivers)


def nothing_at(address: str) -> str | None:
    """Why no cluster can be at a host:port. Ray itself tries for two minutes, and then ends the whole process."""
    host, separator, port = address.rpartition(":")
    if not separator or "/" in host or not port.isdigit():
        return None
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as probe:
            probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if probe.recv(6) == b"HTTP/1":
                return f"a web server answers at {address}, perhaps Ray's dashboard; the cluster's own port is another"
    except TimeoutError:
        return f"nothing answers at {address} within {PROBE_S} s"
    except OSError as error:
        return f"nothing answers at {address}: {error.strerror}"
    return None


def _end_strays(mark: str, grace_s: float = 5.0) -> None:
    """Ends every process of the cluster marked `mark` that outlives `ray.shutdown`."""
    deadline = time.monotonic() + grace_s
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=grace_s)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found.append(process)
    return found
