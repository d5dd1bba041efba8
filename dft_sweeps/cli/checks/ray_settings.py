"""Environment variables of Ray that contradict what is asked, or what this package needs."""

from __future__ import annotations

import os
from pathlib import Path

from dft_sweeps.cli.checks.finding import Context, Finding, failed, ok

GIVE_TOKEN = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...   # the cluster's; on its head node: ray get-auth-token"
_TOKEN_FILE = Path("~/.ray/auth_token")


def settings(context: Context) -> Finding:
    wrong = [*_addresses(context.address), *_authentication(context.address), *_train()]
    if wrong:
        return failed("; ".join(found for found, _ in wrong), "\n".join(advice for _, advice in wrong))
    return ok(f"nothing contradicts {context.address or 'a cluster started here'}")


def _addresses(address: str | None) -> list[tuple[str, str]]:
    """Ray's State API, through which Train cleans up, goes by RAY_ADDRESS and not by the cluster it runs in. For a
    cluster of our own, the package sets it right itself."""
    elsewhere = os.environ.get("RAY_ADDRESS")
    if not elsewhere or address in (None, "auto", elsewhere):
        return []
    found = f"RAY_ADDRESS is {elsewhere}, but --address is {address}"
    return [(found, f"unset RAY_ADDRESS   # or, to use that cluster: --address {elsewhere}")]


def _authentication(address: str | None) -> list[tuple[str, str]]:
    mode = os.environ.get("RAY_AUTH_MODE", "disabled").lower()
    if mode not in ("disabled", "token"):
        found = f"RAY_AUTH_MODE is {mode!r}, which Ray takes for no authentication at all"
        return [(found, "export RAY_AUTH_MODE=token   # or disabled")]
    if address and mode == "token" and not _has_token():
        return [("RAY_AUTH_MODE is token, but there is no token", GIVE_TOKEN)]
    return []


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_FILE).expanduser().is_file()


def _train() -> list[tuple[str, str]]:
    value = os.environ.get("RAY_TRAIN_V2_ENABLED", "1")
    if value.lower() in ("1", "true"):
        return []
    return [(f"RAY_TRAIN_V2_ENABLED is {value}, but trials run on Ray Train V2", "unset RAY_TRAIN_V2_ENABLED")]
