"""`dft-sweeps serve` in a process of its own, over TLS, and its clients."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dft_sweeps.cli.client import Server
from dft_sweeps.orchestration.cluster import free_port
from tests.end_to_end.running import MARK, heed_interrupts

COMMAND = [sys.executable, "-c", "from dft_sweeps.cli.main import main; main()"]
UP = "Ctrl-C ends it."


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


def serve(storage: Path, *options: str) -> Service:
    """Starts the service and waits until it is up. Raises RuntimeError with what it printed where it ends instead."""
    certificate, key = _certificate(storage)
    port, mlflow = free_port(), free_port()
    mark = f"{os.getpid()}-{port}"
    own = ["--storage", str(storage), "--port", str(port), "--mlflow-port", str(mlflow)]
    tls = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    process = subprocess.Popen(
        [*COMMAND, "serve", *own, *tls, *options],
        env=_environment() | {MARK: mark, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if UP in line:
            break
    else:
        raise RuntimeError("\n".join(lines))
    threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
    address = f"https://127.0.0.1:{port}"
    return Service(process, lines, mark, address, f"http://127.0.0.1:{mlflow}", storage, certificate)


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
