"""What a submitted spec may name: files below the operator's directories, hub ids where allowed, and only so much.

A spec comes from whoever holds the API's token. It is data, and what it makes the cluster read is bounded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dft_sweeps.data.sources import NUMINAMATH
from dft_sweeps.spec.document import EMBEDDED
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, Trial
from dft_sweeps.spec.models import ArithmeticSource, HubSource, NuminaMathSource

SECRET = "service"
"""Directory in the storage that no spec may name: it holds the token and the tracking server's password."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""Nothing that could be a path to elsewhere: the library that reads data sets takes directories for ids too."""


@dataclass(frozen=True)
class Limits:
    """What the operator of a service allows."""

    paths: tuple[str, ...] = ()
    """Directories whose files and models specs may name."""
    forbidden: tuple[str, ...] = ()
    """Directories below those that they may not."""
    hub: bool = False
    """Whether specs may name models and datasets of the hub."""
    trials: int = 256
    """Of one sweep."""
    points: int = 100_000
    """Evaluated steps of one sweep, over all its trials."""
    samples: int = 1_000_000
    """Demonstrations to generate, over all the data of a sweep."""
    at_once: int = 1
    """Submitted sweeps that run at a time; the others wait. Each counts with the whole cluster."""
    sweeps: int = 1000
    """Submitted sweeps that run or wait."""
    body_bytes: int = 256 * 1024
    check_s: float = 300.0
    """Longest that reading what a spec names may take."""
    check_gib: int = 12
    """Most memory for that."""


def refuse_forbidden(sweep: Sweep, limits: Limits) -> None:
    """Refuses a spec that names what the operator does not allow. To be called before anything it names is touched.

    Errors name the place in the spec, never the path that it leads to, nor whether there is something.

    Raises:
        SpecError: a path outside the allowed directories, a hub id where none are allowed, or too much of something.
    """
    planned = len(sweep.trials) + sweep.to_propose
    if planned > limits.trials:
        raise sweep.document.error(("axes",), f"{planned} trials; this service takes {limits.trials}")
    named = (*sweep.trials, *sweep.probes)  # what a search may yet propose
    for trial in named:
        for place, path in _paths(trial):
            with sweep.at(trial, *place):
                refuse_outside(Path(path), limits)
        for place, hub in _hub_ids(trial):
            with sweep.at(trial, *place):
                if not _HUB_ID.fullmatch(hub):
                    raise SpecError("not an id of the hub, which has the form owner/name")
                if not limits.hub:
                    raise SpecError(f"{hub!r} is of the hub, from which this service takes nothing; name a file of it")
    generated = {trial.spec.data.source for trial in named}
    samples = sum(source.samples for source in generated if isinstance(source, ArithmeticSource))
    if samples > limits.samples:
        message = f"{samples:,} samples to generate; this service takes {limits.samples:,}"
        raise sweep.document.error(("trial",), message)


def refuse_too_long(sweep: Sweep, points: int, limits: Limits) -> None:
    """Args: `points`: evaluated steps over all trials. Raises SpecError for more than are allowed."""
    if points > limits.points:
        message = f"{points:,} evaluated steps; this service takes {limits.points:,}"
        raise sweep.document.error(("trial", "evaluation"), message)


def refuse_outside(path: Path, limits: Limits) -> None:
    """Raises SpecError for a path that is, or through links leads or holds a link, outside the allowed directories."""
    if not path.is_absolute():
        raise SpecError("a service's paths are those of its cluster, from the root: this one is relative")
    allowed = [os.path.realpath(root) for root in limits.paths]
    forbidden = [os.path.realpath(root) for root in limits.forbidden]
    for found in _with_links(path):
        real = os.path.realpath(found)
        if _below(real, forbidden) or not _below(real, allowed):
            raise SpecError("outside the directories that the operator of this service allows (serve --allow-path)")


def _with_links(path: Path) -> Iterator[Path]:
    """The path, and once that is known to be allowed, the links in the directory it names."""
    yield path
    if path.is_dir():
        for directory, names, files in os.walk(path):
            yield from (each for name in (*names, *files) if (each := Path(directory, name)).is_symlink())


def _below(path: str, roots: Sequence[str]) -> bool:
    return any(os.path.commonpath([path, root]) == root for root in roots)


def _paths(trial: Trial) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The files and directories that a trial names, each with its place in the trial."""
    spec = trial.spec
    if spec.model.path != EMBEDDED and not _HUB_ID.fullmatch(spec.model.path):
        yield ("model", "path"), spec.model.path
    source = spec.data.source
    if (path := getattr(source, "path", None)) is not None:
        yield ("data", "source", "path"), path
    for index, benchmark in enumerate(spec.evaluation.benchmarks):
        if benchmark.path is not None:
            yield ("evaluation", "benchmarks", index), benchmark.path


def _hub_ids(trial: Trial) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What a trial names of the hub itself. A benchmark's data set is named by this package, and always allowed."""
    model, source = trial.spec.model.path, trial.spec.data.source
    if model != EMBEDDED and _HUB_ID.fullmatch(model):
        yield ("model", "path"), model
    if isinstance(source, HubSource):
        yield ("data", "source", "id"), source.id
    if isinstance(source, NuminaMathSource) and source.path is None:
        yield ("data", "source"), NUMINAMATH
