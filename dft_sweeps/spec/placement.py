"""Whether a cluster can ever hold a sweep's engines and trials, node by node, as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dft_sweeps.spec.models import ExecutionSpec, PoolSpec

KINDS = ("CPU", "GPU")


class Resources(NamedTuple):
    cpus: float
    gpus: float

    def less(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)

    def times(self, bundle: Resources) -> int:
        """How many of `bundle`, which is not empty, it holds."""
        return min(int(has // needs) for has, needs in zip(self, bundle, strict=True) if needs)


@dataclass(frozen=True)
class ClusterFacts:
    """All that a cluster ever has, whoever uses it now."""

    cpus: float
    gpus: float
    nodes: tuple[Resources, ...] = ()
    """By node; empty for one node that has it all."""
    devices: tuple[str, ...] | None = None
    """Of these runs' `dft.device` tags some word names what it trains on; None where that is not known."""
    drivers: int | None = None
    """Trials whose drivers its nodes have memory for at a time; None where that is not known."""

    @property
    def by_node(self) -> tuple[Resources, ...]:
        return self.nodes or (Resources(self.cpus, self.gpus),)


def engine_bundle(pool: PoolSpec) -> Resources:
    return Resources(pool.cpus_per_engine, pool.gpus_per_engine)


def worker_bundle(execution: ExecutionSpec) -> Resources:
    return Resources(execution.cpus_per_worker, execution.gpus_per_worker)


def placement(execution: ExecutionSpec, pool: PoolSpec, cluster: ClusterFacts) -> tuple[int, str]:
    """How many trials run at a time beside the engines, and what is missing if that is none.

    Engines come first: a checkpoint that waits for an engine holds its trial's curve back for ever. Each engine and
    each worker lies on one node; the workers of a trial may lie on several. Where several nodes could hold an engine
    it is reckoned to lie where it costs the fewest workers: Ray may put it elsewhere, so once the engines are up
    `beside_engines` tells.
    """
    engine, worker = engine_bundle(pool), worker_bundle(execution)
    missing = _too_few(execution, pool, cluster) or _too_large(engine, worker, cluster.by_node)
    if missing:
        return 0, missing
    free = list(cluster.by_node)
    for placed in range(pool.replicas):
        if not any(node.times(engine) for node in free):
            return 0, _fragmented(placed, pool.replicas, f"engines ({_words(engine)} each)", free)
        _place(engine, worker, free)
    return beside_engines(execution, free, cluster.drivers)


def beside_engines(execution: ExecutionSpec, free: Sequence[Resources], drivers: int | None) -> tuple[int, str]:
    """How many trials run at a time in what engines leave of the nodes, and what is missing if that is none.

    Args:
        drivers: as in `ClusterFacts`.
    """
    worker = worker_bundle(execution)
    workers = sum(node.times(worker) for node in free)
    if workers < execution.workers:
        return 0, _fragmented(workers, execution.workers, f"workers of one trial ({_words(worker)} each)", free)
    if drivers == 0:
        return 0, "too little memory on every node for a trial's driver and the processes beside it"
    limits = (workers // execution.workers, execution.max_concurrent_trials, drivers)
    return min(limit for limit in limits if limit is not None), ""


def _place(engine: Resources, worker: Resources, free: list[Resources]) -> None:
    """Takes an engine's share from the node where that costs the fewest workers; of equal ones, the fullest."""

    def costs(index: int) -> tuple[int, Resources]:
        node = free[index]
        return node.times(worker) - node.less(engine).times(worker), node

    best = min((index for index, node in enumerate(free) if node.times(engine)), key=costs)
    free[best] = free[best].less(engine)


def _too_few(execution: ExecutionSpec, pool: PoolSpec, cluster: ClusterFacts) -> str:
    """What the cluster lacks in sum."""
    bundles = zip(KINDS, (cluster.cpus, cluster.gpus), engine_bundle(pool), worker_bundle(execution), strict=True)
    for kind, has, per_engine, per_worker in bundles:
        needed = pool.replicas * per_engine + execution.workers * per_worker
        if needed > has:
            return (
                f"too few {kind}s: the cluster has {has:g}, and {needed} are needed "
                f"(engines: {pool.replicas} x {per_engine}; workers of one trial: {execution.workers} x {per_worker})"
            )
    return ""


def _too_large(engine: Resources, worker: Resources, nodes: Sequence[Resources]) -> str:
    """Which bundle no single node can hold."""
    for name, bundle in (("engine", engine), ("worker", worker)):
        if any(node.times(bundle) for node in nodes):
            continue
        for kind, needs, most in zip(KINDS, bundle, map(max, zip(*nodes, strict=True)), strict=True):
            if needs > most:
                return f"too few {kind}s on every node: one {name} needs {needs}, and the largest node has {most:g}"
        return f"no node has {_words(bundle)} together, which one {name} needs; the nodes have {_listed(nodes)}"
    return ""


def _fragmented(placed: int, wanted: int, what: str, free: Sequence[Resources]) -> str:
    return (
        f"the nodes' CPUs and GPUs are enough in sum, but on single nodes only {placed} of {wanted} {what} find room; "
        f"left there: {_listed(free)}"
    )


def _words(bundle: Resources) -> str:
    counted = zip(bundle, KINDS, strict=True)
    return " and ".join(f"{amount:g} {kind}{'s' if amount != 1 else ''}" for amount, kind in counted if amount)


def _listed(nodes: Sequence[Resources]) -> str:
    return ", ".join(f"{node.cpus:g} CPUs {node.gpus:g} GPUs" for node in nodes)
