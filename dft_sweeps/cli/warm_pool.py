"""Evaluation engines that outlive one sweep: kept by `serve`, used by every sweep that would start equal ones."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.cli.engines import pool_settings, stop_tokens

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from services.pool import Pool, PoolSettings

Progress = Callable[[str], None]


def settings_of(prepared: PreparedSweep, name: str) -> PoolSettings:
    """The engines that a sweep evaluates with, in a pool of this name."""
    ranks = [adapter.rank for trial in prepared.trials if (adapter := trial.trial.spec.train.adapter)]
    stops = stop_tokens(prepared.prompts, prepared.model.directory)
    return pool_settings(prepared.sweep.spec.pool, stops, name, max(ranks, default=None))


@contextlib.contextmanager
def pool_of(prepared: PreparedSweep, name: str, keep: bool, on_progress: Progress) -> Iterator[Pool]:
    """The sweep's engines, for the block: the warm ones of equal settings and model where they run, else its own.

    Args:
        name: of its own.
        keep: leave its own to the end of their cluster.

    Raises:
        PoolError: they do not start.
    """
    from services.pool import find_pool, start_pool, stop_pool

    settings = settings_of(prepared, name)
    directory = prepared.model.directory
    if warm := find_pool(dataclasses.replace(settings, name=warm_name(settings, directory))):
        on_progress(f"using the warm engines {warm.name}")
        yield warm
        return
    try:
        yield start_pool(settings, str(directory), on_progress)
    finally:
        if not keep:
            stop_pool(settings.name)


@contextlib.contextmanager
def warm_pool(spec: Path | None, on_progress: Progress) -> Iterator[None]:
    """Keeps the engines of a spec running for the block; none where there is no spec.

    Raises:
        SpecError: whatever is wrong with the spec.
        PoolError: they do not start.
    """
    if spec is None:
        yield
        return
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep
    from services.pool import start_pool, stop_pool

    prepared = prepare(load_sweep(spec))
    settings = settings_of(prepared, "")
    settings = dataclasses.replace(settings, name=warm_name(settings, prepared.model.directory))
    try:
        start_pool(settings, str(prepared.model.directory), on_progress)
        yield
    finally:
        stop_pool(settings.name)


def warm_name(settings: PoolSettings, model: Path) -> str:
    """The same for all pools that hold the same: settings, but for their name, and the model's architecture."""
    content = dataclasses.asdict(dataclasses.replace(settings, name=""))
    architecture = (model / "config.json").read_text(encoding="utf-8")
    return f"warm-{hashlib.sha256(json.dumps([content, architecture]).encode()).hexdigest()[:16]}"
