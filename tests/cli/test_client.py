"""The client of a server that is away for a moment, and what it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dft_sweeps.cli import client, list_
from dft_sweeps.orchestration.cluster import ClusterUnavailable, free_port
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
