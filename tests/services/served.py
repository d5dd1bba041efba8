"""`dft-sweeps serve` in a process of its own, over TLS, its clients, and clusters that somebody else started."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dft_sweeps.cli.client import Server
from dft_sweeps.orchestration.cluster import free_port, free_ports
from tests.end_to_end.running import MARK, heed_interrupts, interrupt, marked

COMMAND = [sys.executable, "-c", "from dft_sweeps.cli.main import main; main()"]
UP = "Ctrl-C ends it."
UP_S = 600.0
"""On a machine that does much else, Ray and MLflow take long to start."""
UNKILLED = {"RAY_memory_monitor_refresh_ms": "0"}
"""Ray ends processes where anything, be it not its own, fills the machine's memory; not in a test of something else."""
STAYING = {
    *("ServeController", "ProxyActor", "ServeReplica:sweep-api:api", "JobSupervisor"),
    "_AutoscalingCoordinatorActor",  # Ray Train's, one for the cluster, for good
}
"""Actors that are the service's, the cluster's own, or end a little after their job."""


@dataclass(frozen=True)
class Service:
    process: subprocess.Popen[str]
    lines: list[str]
    mark: str
    url: str
    tracking_uri: str
    storage: Path
    certificate: Path

    def client(self) -> Server:
        return Server(self.url, tls_certificate=self.certificate, storage=self.storage)

    def call(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of ours against this server."""
        options = ["--server", self.url, "--storage", str(self.storage), "--tls-certificate", str(self.certificate)]
        return subprocess.run(
            [*COMMAND, command, *arguments, *options], env=_environment(), capture_output=True, text=True, timeout=500
        )

    def end(self) -> int:
        """Ctrl-C; gives the exit code."""
        interrupt(self.process.pid, self.mark)
        return self.process.wait(200)


@dataclass(frozen=True)
class Head:
    """A cluster's head node."""

    address: str
    dashboard: str
    mark: str
    """Of every process that the cluster starts, but for those of a command that connects to it."""
    environment: dict[str, str]


@contextlib.contextmanager
def ray_head(cpus: int) -> Iterator[Head]:
    """A cluster on ports of its own, started as an operator does; ends by its own processes' ends."""
    port, dashboard, agent = free_ports(3)
    mark = f"{os.getpid()}-head-{port}"
    environment = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    } | UNKILLED
    directory = tempfile.mkdtemp(prefix="dft-sweeps-ray-")
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    with _ray_start(cpus, mark, environment, "--head", f"--temp-dir={directory}", *ports):
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", mark, environment)


@contextlib.contextmanager
def ray_node(head: Head, cpus: int) -> Iterator[None]:
    """A further node of the cluster, on this machine too."""
    agent = f"--dashboard-agent-listen-port={free_port()}"
    with _ray_start(cpus, f"{head.mark}-node", head.environment, f"--address={head.address}", agent):
        yield


@contextlib.contextmanager
def _ray_start(cpus: int, mark: str, environment: dict[str, str], *options: str) -> Iterator[None]:
    where = ["--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--disable-usage-stats"]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--block", *where, *options],
        env=_environment() | environment | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _await(process, "--block")
        yield
    finally:
        family = marked(mark)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for left in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.send_signal(signal.SIGKILL)


def left_on(head: Head) -> list[str]:
    """Placement groups and actors of sweeps that the cluster has."""
    from ray.util.state import list_actors, list_placement_groups

    groups = list_placement_groups(address=head.dashboard, limit=1000)
    actors = list_actors(address=head.dashboard, limit=1000)
    left = [f"group {group.placement_group_id}: {group.state}" for group in groups if group.state != "REMOVED"]
    return left + [actor.class_name for actor in actors if actor.state != "DEAD" and actor.class_name not in STAYING]


def wait_until(holds: Callable[[], object], seconds: float = 300) -> float:
    """Gives the seconds that it took."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < seconds
        time.sleep(0.1)
    return time.monotonic() - begun


def serve(storage: Path, *options: str, environment: dict[str, str] | None = None) -> Service:
    """Starts the service and waits until it is up. Raises RuntimeError with what it printed where it ends instead,
    or takes too long, and is killed."""
    certificate, key = _certificate(storage)
    port, mlflow = free_ports(2)
    mark = f"{os.getpid()}-{port}"
    own = ["--storage", str(storage), "--port", str(port), "--mlflow-port", str(mlflow)]
    tls = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    process = subprocess.Popen(
        [*COMMAND, "serve", *own, *tls, *options],
        env=_environment() | (environment or {}) | {MARK: mark, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    lines = _await(process, UP)
    address = f"https://127.0.0.1:{port}"
    tracking = options[options.index("--tracking-uri") + 1] if "--tracking-uri" in options else ""
    tracking = tracking or f"http://127.0.0.1:{mlflow}"
    return Service(process, lines, mark, address, tracking, storage, certificate)


def _await(process: subprocess.Popen[str], sign: str) -> list[str]:
    """Waits for a line with this sign; what the process prints, then and later. Raises RuntimeError as `serve` does."""
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        lines.extend(line.rstrip() for line in process.stdout)

    reader, deadline = threading.Thread(target=read, daemon=True), time.monotonic() + UP_S
    reader.start()
    reading = True
    while reading and time.monotonic() < deadline:
        reading = reader.is_alive()
        if any(sign in line for line in [*lines]):
            return lines
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    raise RuntimeError("\n".join(lines))


def _environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "DFT_"))}
    return own | {"OMP_NUM_THREADS": "1"}


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of its own making for loopback, and its key."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dft-sweeps tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    private.chmod(0o600)
    return certificate, private
