"""Where a sweep's engines have come to lie, and what room that leaves to its trials.

A plan counts on the places that cost the fewest workers. Engines prefer the node with the least room, but what others
held when they started, or started with them, may have sent them elsewhere: two of one CPU on two nodes leave none of
four CPUs whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dft_sweeps.cli.warm_pool import held_by

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.placement import Resources
    from services.pool import Pool


def trials_beside(prepared: PreparedSweep, pool: Pool, planned: int, say: Callable[[str], None]) -> int:
    """How many of the trials that are planned at a time find room beside engines where they lie now: the sweep's, and
    those kept warm for others. Whatever else takes room now ends some time.

    Raises:
        SpecError: none does, for as long as these engines are there.
    """
    from dft_sweeps.orchestration.cluster import cluster_facts, nodes_by_id
    from dft_sweeps.spec.placement import beside_engines, engine_bundle
    from services.pool import engine_nodes

    spec, engines = prepared.sweep.spec, engine_nodes()
    free = left(nodes_by_id(), engines, pool.name, engine_bundle(spec.pool))
    trials, missing = beside_engines(spec.execution, free, cluster_facts().drivers)
    if trials >= planned:
        return planned
    words = f"where the engines lie now there is room for {trials} of {planned} trials at a time"
    if sum(name == pool.name for name, _ in engines) != pool.fewest:
        say(f"WARNING: {words}; it changes as engines come and go")
        return planned
    if missing:
        raise prepared.sweep.document.error(
            ("pool",),
            f"Ray has put the engines where they leave no trial room: {missing}; fewer or larger engines "
            "(pool.replicas, pool.cpus_per_engine), or smaller workers (execution.cpus_per_worker), leave some",
        )
    say(words)
    return trials


def left(
    nodes: Mapping[str, Resources], engines: Sequence[tuple[str, str]], own: str, takes: Resources
) -> list[Resources]:
    """What engines that stay leave of each node.

    Args:
        engines: the pool's name and the node's id of each.
        own: the name of the sweep's pool.
        takes: what each engine of it takes.
    """
    free = dict(nodes)
    for pool, node in engines:
        warm = held_by(pool)
        if node in free and (pool == own or warm):
            free[node] = free[node].less(takes if warm is None else warm[1])
    return list(free.values())
