"""Evaluation engines that outlive one sweep: kept by `serve`, used by every sweep that would start equal ones."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.cli.engines import pool_settings, stop_tokens

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.placement import ClusterFacts, Resources
    from services.pool import Pool, PoolSettings

Progress = Callable[[str], None]
_NAME = re.compile(r"warm-(\d+)x(\d+)c(\d+)g-[0-9a-f]{16}")


def settings_of(prepared: PreparedSweep, name: str) -> PoolSettings:
    """The engines that a sweep evaluates with, in a pool of this name."""
    trials = (*prepared.sweep.trials, *prepared.sweep.probes)  # what a search may yet propose is served too
    ranks = [adapter.rank for trial in trials if (adapter := trial.spec.train.adapter)]
    model = prepared.model
    stops = stop_tokens(prepared.prompts, model.directory, model.trusted)
    return pool_settings(prepared.sweep.spec.pool, stops, name, max(ranks, default=None), model.trusted)


@contextlib.contextmanager
def pool_of(prepared: PreparedSweep, name: str, keep: bool, on_progress: Progress) -> Iterator[Pool]:
    """The sweep's engines, for the block: the warm ones of equal settings and model where they run, else its own.

    Args:
        name: of its own.
        keep: leave its own to the end of their cluster.

    Raises:
        PoolError: they do not start.
        SpecError: they, and a trial, find no room beside engines that are kept warm for others.
    """
    from services.pool import find_pool, start_pool, stop_pool

    settings = settings_of(prepared, name)
    directory = prepared.model.directory
    if warm := find_pool(dataclasses.replace(settings, name=warm_name(settings, directory))):
        on_progress(f"using the warm engines {warm.name}")
        yield warm
        return
    _refuse_without_room(prepared)
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
    digest = hashlib.sha256(json.dumps([content, architecture]).encode()).hexdigest()[:16]
    takes = settings.engine_resources
    return f"warm-{settings.most_replicas}x{takes['num_cpus']:.0f}c{takes['num_gpus']:.0f}g-{digest}"


def held_by(name: str) -> tuple[int, Resources] | None:
    """How many engines a pool of this name may have, and what each takes; None where it is not kept warm."""
    from dft_sweeps.spec.placement import Resources

    if not (found := _NAME.fullmatch(name)):
        return None
    engines, cpus, gpus = map(int, found.groups())
    return engines, Resources(cpus, gpus)


def _refuse_without_room(prepared: PreparedSweep) -> None:
    """Raises SpecError where engines that are kept warm for other sweeps leave too little: they never end, so whatever
    waits for their room waits for ever."""
    from ray import serve

    from dft_sweeps.orchestration.cluster import cluster_facts
    from dft_sweeps.spec.placement import placement

    names = sorted(filter(_NAME.fullmatch, serve.status().applications))
    if not names:
        return
    spec = prepared.sweep.spec
    _, missing = placement(spec.execution, spec.pool, beside(cluster_facts(), names))
    if missing:
        raise prepared.sweep.document.error(("pool",), f"beside the warm engines {', '.join(names)}: {missing}")


def beside(cluster: ClusterFacts, warm: Sequence[str]) -> ClusterFacts:
    """What a cluster has beside warm pools of these names, which are thought to be where there is most room."""
    free = list(cluster.by_node)
    for name in warm:
        held = held_by(name)
        assert held is not None, name
        for _ in range(held[0]):
            free.sort()
            free[-1] = free[-1].less(held[1])
    cpus_left, gpus_left = (sum(amounts) for amounts in zip(*free, strict=True))
    return dataclasses.replace(cluster, cpus=cpus_left, gpus=gpus_left, nodes=tuple(free))
