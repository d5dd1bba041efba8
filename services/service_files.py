"""The service's own files on storage: its token, and where MLflow is. Only their owner can read them.

Jobs and replicas are told where these files are, never what is in them: Ray shows what jobs are started with.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from dft_sweeps.spec.errors import SpecError
from services.allowed import SECRET

TOKEN_VARIABLE = "DFT_SWEEPS_TOKEN"
SHORTEST_TOKEN = 16
_PASSED_ON = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN")


def service_directory(storage: Path) -> Path:
    directory = storage / SECRET
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    return directory


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, at once and whole."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def token_file(storage: Path) -> Path:
    return storage / SECRET / "token"


def read_token(file: Path) -> str:
    """Raises SpecError for a file that is not there, or holds no token."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"no token can be read from {file}: {error}") from error
    return checked_token(token, str(file))


def checked_token(token: str, where: str) -> str:
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SpecError(f"a token is at least {SHORTEST_TOKEN} visible ASCII characters without blanks", where)
    return token


def made_token(storage: Path) -> str:
    """The token in the storage directory, made where there is none."""
    service_directory(storage)
    file = token_file(storage)
    if not file.exists():
        write_private(file, f"{secrets.token_urlsafe(32)}\n")
    return read_token(file)


@dataclass(frozen=True)
class Tracking:
    """Where MLflow is, with what it asks for."""

    uri: str
    environment: dict[str, str]

    def enter(self) -> None:
        """Puts what MLflow asks for into this process' environment."""
        os.environ |= self.environment


def tracking_file(storage: Path) -> Path:
    return storage / SECRET / "tracking.json"


def write_tracking(storage: Path, uri: str) -> None:
    """Keeps the URI, and the passwords for it in this process' environment, for jobs and replicas."""
    service_directory(storage)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    write_private(tracking_file(storage), json.dumps({"uri": uri, "environment": environment}))


def read_tracking(storage: Path) -> Tracking:
    return Tracking(**json.loads(tracking_file(storage).read_text(encoding="utf-8")))
