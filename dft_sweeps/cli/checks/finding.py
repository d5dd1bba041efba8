"""What a check of `dft-sweeps doctor` is: a function of the context that finds one thing and says how to mend it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dft_sweeps.spec.plan import ClusterFacts

LONGEST = 500
"""Characters of an error's message that are shown."""

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """`advice` says how to mend what is not ok, one step per line; commands can be typed as they are."""

    status: Status
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert (self.status in ("warning", "failed")) == bool(self.advice), self


@dataclass
class Context:
    """What the checks look at, and what an earlier one left for a later one."""

    storage: Path
    tracking_uri: str
    address: str | None
    """Ray cluster to look at; None starts one here."""
    model_directory: Path
    """The model that the engine is started on."""
    resources: ExitStack = field(default_factory=ExitStack)
    """Holds what outlives a check: the connection to Ray."""
    cluster: ClusterFacts | None = None
    """Set by the check that connects to Ray."""


@dataclass(frozen=True)
class Check:
    """`needs` names earlier checks without which this one could find nothing."""

    name: str
    doing: str
    look: Callable[[Context], Finding]
    needs: tuple[str, ...] = ()


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, advice: str) -> Finding:
    return Finding("warning", found, advice)


def failed(found: str, advice: str) -> Finding:
    return Finding("failed", found, advice)


def in_short(error: object) -> str:
    """The beginning of an error's message as one line; libraries write whole pages."""
    return " ".join(str(error).split())[:LONGEST] or type(error).__name__
