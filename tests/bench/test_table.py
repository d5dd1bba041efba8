from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import table
from tests.bench.row import Row

VERSIONS = {"torch": "2.13.0", "trl": "1.16.0"}
MEASURED = Row("speed", "theirs", "tokens/s", "1 thread", ours=1234.5, peer=1000.0, versions=VERSIONS)
PAIRED = Row("step", "sft", "ms", "40 pairs", ours=2.02, peer=2.0, interval=(0.99, 1.02), versions=VERSIONS)
NOT_RUN = Row("gpu", "a|b", "tokens/s", "bf16", not_run="no\nGPU", versions=VERSIONS)


def test_the_files_say_the_same(tmp_path: Path) -> None:
    table.write([MEASURED, PAIRED, NOT_RUN], tmp_path / "build")
    kept = {row["name"]: row for row in json.loads((tmp_path / "build" / "bench.json").read_text())}
    assert list(kept) == ["speed", "step", "gpu"]
    assert kept["speed"]["ratio"] == 1.2345
    assert kept["speed"]["versions"] == VERSIONS
    assert (kept["gpu"]["ours"], kept["gpu"]["not_run"]) == (None, "no\nGPU")
    lines = (tmp_path / "build" / "bench.md").read_text().splitlines()
    assert "| speed | 1,234 | 1,000 | tokens/s | 1.23 | theirs |" in lines
    assert "| step | 2.02 | 2 | ms | 1.01 (0.990 to 1.020) | sft |" in lines
    assert "| gpu | no GPU |" in lines
    assert lines.index("## Not run") < lines.index("| gpu | no GPU |")
    assert "- **gpu**: bf16" in lines
    assert lines[-1] == "Versions: torch 2.13.0, trl 1.16.0."


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="speed"):
        table.write([MEASURED, NOT_RUN, MEASURED], tmp_path)
    assert list(tmp_path.iterdir()) == []
