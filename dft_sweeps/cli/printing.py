"""How commands print what they found: tables as wide as the terminal, or JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160
"""Characters of a line where standard output is no terminal."""


def console() -> Console:
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(value: Any) -> None:
    """Dataclasses as objects, times in ISO 8601; NaN and infinities, which JSON lacks, as strings."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def percent_range(low: float, high: float) -> str:
    """Bounds that are shares, in percent, e.g. ``60.0-67.0``."""
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
