"""The client of a server that is away for a moment, and what it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dft_sweeps.cli import client, list_, rerun
from dft_sweeps.orchestration.cluster import ClusterUnavailable, free_port
from dft_sweeps.spec.errors import SpecError
from services.service_files import TOKEN_VARIABLE


def test_a_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-of-the-tests")
    pauses: list[float] = []
    monkeypatch.setattr(client.time, "sleep", pauses.append)
    with pytest.raises(ClusterUnavailable, match="refused"):
        list(client.Server(f"http://127.0.0.1:{free_port()}").events("s-1"))
    assert pauses[:5] == [0.5, 1, 2, 4, 8] and 60 < sum(pauses) < 300


@pytest.mark.parametrize(("arguments", "asked"), [((), 51), (("--limit", "3"), 4), (("--all",), 10_000)])
def test_list_asks_for_no_more_than_it_shows(
    arguments: tuple[str, ...], asked: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-of-the-tests")
    paths: list[str] = []
    row = {"sweep_id": "s", "name": "n", "status": "FINISHED", "started": None, "trials": 1, "finished": 1}

    def answer(_: client.Server, method: str, path: str) -> list[dict[str, object]]:
        paths.append(path)
        return [row] * min(asked, 60)

    monkeypatch.setattr(client.Server, "_json", answer)
    result = CliRunner().invoke(list_.command, ["--server", "http://127.0.0.1:9", *arguments])
    assert result.exit_code == 0, result.output
    assert paths == [f"/v1/sweeps?limit={asked}"]
    assert ("--all lists the older ones too" in result.stdout) == (asked < 10_000)


def rerun_submitted(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[list[tuple[str, Any]], Result]:
    """What `rerun` asks of a server that has run a few sweeps, and has one that waits, of which MLflow has nothing."""
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-of-the-tests")
    names = ("figure3-rate", "quickstart", "figure3-size", "figure3-rate")
    asked: list[tuple[str, Any]] = []

    def answer(_: client.Server, method: str, path: str, body: Any = None) -> Any:
        if method == "GET":
            rows = [{"name": name, "sweep_id": f"s-{age}", "run_id": f"r-{age}"} for age, name in enumerate(names)]
            return [{"name": "figure3-rate", "sweep_id": "s-waits", "run_id": None}, *rows]
        asked.append((path, {key: value for key, value in body.items() if value}))
        sweep_id = path.split("/")[3]
        return {"sweep_id": sweep_id, "submission_id": f"{sweep_id}-a2", "status": "PENDING", "created": True}

    monkeypatch.setattr(client.Server, "_json", answer)
    result = CliRunner().invoke(rerun.command, ["--server", "http://127.0.0.1:9", *arguments], standalone_mode=False)
    return asked, result


def test_a_service_is_asked_to_rerun_the_newest_sweep_of_each_name_of_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, result = rerun_submitted(monkeypatch, "--figure", "3", "--seeds", "3")
    body = {"figure": 3, "seeds": 3}
    assert asked == [("/v1/sweeps/s-2/rerun", body), ("/v1/sweeps/s-0/rerun", body)]
    assert "submitted s-0 as s-0-a2\nfollow it with: dft-sweeps logs s-0 --follow\n" in result.stdout


def test_a_service_is_asked_for_what_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, result = rerun_submitted(monkeypatch, "s-9", "--failed", "--cell", "train.seed=1", "--fresh", "--json")
    assert asked == [("/v1/sweeps/s-9/rerun", {"failed": True, "cells": ("train.seed=1",), "fresh": True})]
    assert [each["submission_id"] for each in json.loads(result.stdout)] == ["s-9-a2"]


@pytest.mark.parametrize("option", [("--set", "trial.train.steps=3"), ("--address", "auto"), ("--dry-run",)])
def test_what_a_service_does_not_know_is_refused(option: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    asked, result = rerun_submitted(monkeypatch, "s-9", *option)
    assert isinstance(result.exception, SpecError) and not asked
    assert str(result.exception).startswith(f"{option[0]} with --server: a service takes no {option[0]}; ")
