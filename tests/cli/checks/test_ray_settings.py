"""Environment variables of Ray that break it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dft_sweeps.cli.checks import ray_settings
from dft_sweeps.cli.checks.finding import Context
from tests.cli.checks.advised import advised


@pytest.mark.parametrize(
    ("address", "variables", "found", "advice"),
    [
        ("other:6379", {"RAY_ADDRESS": "head:6379"}, "but --address is other:6379", "--address head:6379"),
        (None, {"RAY_AUTH_MODE": "tokens"}, "'tokens', which Ray takes for no", "export RAY_AUTH_MODE=token"),
        ("head:6379", {"RAY_AUTH_MODE": "token"}, "there is no token", "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="),
        (None, {"RAY_TRAIN_V2_ENABLED": "0"}, "RAY_TRAIN_V2_ENABLED is 0", "unset RAY_TRAIN_V2_ENABLED"),
    ],
)
def test_settings_of_ray_that_break_it(
    address: str | None,
    variables: dict[str, str],
    found: str,
    advice: str,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    context.address = address
    assert ray_settings.settings(context).status == "ok"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    advised(ray_settings.settings(context), "failed", found, advice)


def test_a_token_is_found_in_its_file(context: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    context.address = "head:6379"
    assert ray_settings.settings(context).status == "ok"
