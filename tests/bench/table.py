"""The tables a run leaves behind: build/bench.json, one object per row, and build/bench.md, the same to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.bench.row import Row


def write(rows: Sequence[Row], directory: Path) -> None:
    """Writes both files, replacing those of an earlier run.

    Raises:
        ValueError: two rows have one name.
    """
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rows of the same name: {', '.join(twice)}")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.json").write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
    (directory / "bench.md").write_text(markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """A table of the measured rows, then what was not run and why, then how each figure came about."""
    measured = [row for row in rows if row.not_run is None]
    lines = [
        "# Benchmark",
        "",
        "Ratio is ours / peer: above 1 is better for a speed, below 1 for a time or for memory.",
        "",
    ]
    lines += ["| row | ours | peer | unit | ratio | peer is |", "| --- | ---: | ---: | --- | ---: | --- |"]
    for row in measured:
        interval = "" if row.interval is None else f" ({row.interval[0]:.3f} to {row.interval[1]:.3f})"
        cells = [row.name, _figure(row.ours), _figure(row.peer), row.unit, f"{row.ratio:.2f}{interval}", row.peer_name]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    skipped = [row for row in rows if row.not_run is not None]
    if skipped:
        lines += ["", "## Not run", "", "| row | reason |", "| --- | --- |"]
        lines += [f"| {_cell(row.name)} | {_cell(row.not_run)} |" for row in skipped]
    lines += ["", "## How it was measured", ""]
    lines += [f"- **{row.name}**: {row.detail}" for row in rows]
    versions = {name: version for row in rows for name, version in row.versions.items()}
    lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    """Four digits that count."""
    assert value is not None
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")
