"""A Ray cluster on this machine that takes jobs: `ray start` as a child process, on ports of its own.

`ray.init` would do, but for one thing: of the clusters that it starts on a machine only the first can take jobs, for
they all want one port, and it cannot be told another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dft_sweeps.orchestration.cluster import ClusterUnavailable, free_ports, nothing_at
from services.children import die_with_parent

LOOPBACK = "127.0.0.1"
LOG = "ray-start.log"
START_S, STOP_S = 120.0, 20.0


@contextmanager
def local_cluster(storage: Path) -> Iterator[str]:
    """Starts a cluster for the block, and yields the address to connect to. `orchestration.cluster.set_environment`
    was called with no address: its token and its dashboard's port hold.

    Raises:
        ClusterUnavailable: it does not start; says where its log is.
    """
    port, agent_port = free_ports(2)
    log = storage / LOG
    dashboard = os.environ["RAY_API_SERVER_ADDRESS"].rpartition(":")[2]
    options = {
        "port": port,
        "dashboard-host": LOOPBACK,
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent_port,
        "num-cpus": len(os.sched_getaffinity(0)),
        "include-dashboard": "true",
        # Of its own, so that `--address auto` elsewhere on this machine does not find it.
        "temp-dir": tempfile.mkdtemp(prefix="dft-sweeps-ray-"),
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for its parent, which ends it last
            preexec_fn=die_with_parent,
        )
    try:
        _await(process, f"{LOOPBACK}:{port}", log)
        yield f"{LOOPBACK}:{port}"
    finally:
        _end(process)


def _await(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while "Ray runtime started" not in log.read_text(errors="replace") or nothing_at(address):
        if process.poll() is not None:
            raise ClusterUnavailable(f"Ray does not start on this machine; see {log}")
        if time.monotonic() > end:
            raise ClusterUnavailable(f"Ray did not start within {START_S:g} s; see {log}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the cluster to end, and kills what of it is left."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for member in psutil.wait_procs(family, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.kill()
    process.wait()
