"""Connecting to a Ray cluster, or starting one on this machine, and leaving no process of it behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator

import psutil

from dft_sweeps.spec.plan import ClusterFacts

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

    A cluster of our own asks for a token that exists in its processes' environment only. At an address, the user's
    own Ray settings hold.
    """
    assert "ray" not in sys.modules, "Ray was imported before its environment was set"
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ[_MARK] = secrets.token_hex(8)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class ClusterUnavailable(RuntimeError):
    """No Ray cluster answers at the address, or none can be started here."""


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[ClusterFacts]:
    """A connection to the Ray cluster at `address`, or to one started on this machine for the block's duration.

    `set_environment` was called with the same address. A cluster started here listens on loopback only. Its dashboard
    stays on: Ray Train's cleaner of placement groups works through it.
    """
    import ray

    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            **({} if address else {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": True}),
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        raise ClusterUnavailable(f"{where}: {error}") from error
    try:
        resources = ray.cluster_resources()
        yield ClusterFacts(resources.get("CPU", 0.0), resources.get("GPU", 0.0))
    finally:
        with _uninterrupted():
            ray.shutdown()
            if address is None:
                _end_strays(os.environ[_MARK])


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C waits until the block has cleaned up."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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
