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
    """Ray's State API, through which Train cleans up, goes by these and not by the cluster it runs in."""
    found = []
    elsewhere = os.environ.get("RAY_ADDRESS")
    if elsewhere and address not in ("auto", elsewhere):
        asked = f"--address is {address}" if address else "a cluster of this machine is asked for"
        advice = f"unset RAY_ADDRESS   # or, to use that cluster: --address {elsewhere}"
        found.append((f"RAY_ADDRESS is {elsewhere}, but {asked}", advice))
    if address is None and (server := os.environ.get("RAY_API_SERVER_ADDRESS")):
        found.append((f"RAY_API_SERVER_ADDRESS is {server}, another cluster's", "unset RAY_API_SERVER_ADDRESS"))
    return found


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
