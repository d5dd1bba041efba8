from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import throughput
from tests.bench.__main__ import PARTS, main


def test_help_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown and part.what in shown for name, part in PARTS.items())


def test_what_cannot_be_measured_is_in_the_table_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "GSM8K", tmp_path / "none.jsonl")
    main(["--only", "training", "--only", "training_shipped_base", "--out", str(tmp_path / "build")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "build" / "bench.json").read_text())}
    assert list(rows) == [
        f"dft_tokens_per_second_vs_trl_{what}{suffix}"
        for suffix in ("", "_shipped_base")
        for what in ("best", "default")
    ]
    assert all(row["ratio"] is None and row["not_run"] for row in rows.values())
    assert "GSM8K" in (tmp_path / "build" / "bench.md").read_text()
