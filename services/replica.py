"""A Serve replica of the evaluation pool: starts one engine actor, lends it to one lease at a time, replaces it when it
fails.

A lease is a Serve request held open; the work itself goes to the engine's actor directly.

Failure semantics: an engine that died or broke is replaced before the next lease gets it. A replica that cannot start
an engine fails its constructor or its health check, with the last lines of the engine's log, or with what Ray knows
of the end of a process that was killed; Serve replaces the replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray._private.state import available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dft_sweeps.orchestration.actors import ACTOR_DIED
from services.engine_actor import EngineActor, EngineError
from services.engine_log import EngineStartError, reason
from services.engine_settings import EngineSettings

ENGINE_MARK = "ENGINE::"
"""Before its pool in an engine's name, by which `services.pool.engine_nodes` finds it."""


@dataclass(frozen=True)
class PoolSettings:
    """How many engines, what each takes from the cluster, and how long to wait for them (seconds).

    With `max_replicas` there are `replicas` engines at least, and more, up to `max_replicas`, while more leases than
    engines are open or asked for. A surplus engine goes when it was not needed for `downscale_delay_s`, and never
    while it is leased. `num_cpus` and `num_gpus` are for each of the engine's `tensor_parallel` parts. Raises
    ValueError for numbers that mean nothing.
    """

    engine: EngineSettings
    replicas: int = 1
    max_replicas: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    start_timeout_s: float = 600.0
    lease_timeout_s: float = 60.0
    downscale_delay_s: float = 300.0
    name: str = "evaluation-pool"

    def __post_init__(self) -> None:
        if self.replicas < 1 or (self.max_replicas is not None and self.max_replicas < self.replicas):
            raise ValueError(f"a pool of {self.replicas} to {self.max_replicas} engines: at least one, and no fewer")
        parts = self.engine.tensor_parallel
        if parts > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"an engine over {parts} GPUs needs whole ones, not {self.num_gpus} of each")

    @property
    def most_replicas(self) -> int:
        """The largest number of engines there can be."""
        return self.max_replicas or self.replicas

    @property
    def engine_resources(self) -> dict[str, float]:
        """What one engine takes from the cluster."""
        parts = self.engine.tensor_parallel
        return {"num_cpus": self.num_cpus * parts, "num_gpus": self.num_gpus * parts}


class EngineReplica:
    """A Serve replica: starts an engine, lends it, replaces it when it fails."""

    async def __init__(self, settings: PoolSettings, model_directory: str) -> None:  # type: ignore[misc]  # Serve awaits it
        self._settings = settings
        self._model_directory = model_directory
        self._turn = asyncio.Lock()
        await self._start_engine()

    async def lease(self) -> AsyncIterator[tuple[Any, str, float]]:
        """Yields the engine's actor, the lease's id and its timeout once, then stays open until the lease ends."""
        async with self._turn:
            lease_id = uuid4().hex
            await self._open_lease(lease_id)
            try:
                yield self._engine, lease_id, self._settings.lease_timeout_s
                await self._hold_lease(lease_id)
            finally:
                self._engine.release_lease.remote(lease_id)

    async def check_health(self) -> None:
        """Called by Serve every 10 s: replaces an engine that died between leases."""
        if self._turn.locked():
            return
        async with self._turn:
            await self._require_engine()

    async def _open_lease(self, lease_id: str) -> None:
        try:
            await self._engine.open_lease.remote(lease_id)
        except (*ACTOR_DIED, EngineError):
            await self._replace_engine()
            await self._engine.open_lease.remote(lease_id)

    async def _hold_lease(self, lease_id: str) -> None:
        try:
            broken = await self._engine.hold_lease.remote(lease_id, self._settings.lease_timeout_s)
        except ACTOR_DIED:
            broken = "its process died"
        if broken:
            await self._replace_engine()

    async def _require_engine(self) -> None:
        try:
            await self._engine.ready.remote()
        except ACTOR_DIED:
            await self._replace_engine()

    async def _replace_engine(self) -> None:
        ray.kill(self._engine)
        await self._start_engine()

    async def _start_engine(self) -> None:
        actor: Any = ray.remote(EngineActor)
        name = f"{ENGINE_MARK}{self._settings.name}#{uuid4().hex}"
        takes = self._settings.engine_resources
        options = actor.options(name=name, scheduling_strategy=_fullest_node(**takes), **takes)
        self._engine: Any = options.remote(self._settings.engine, self._model_directory)
        try:
            await self._engine.ready.remote()
        except ACTOR_DIED as error:
            raise EngineStartError(reason(str(error)).splitlines()) from None


def _fullest_node(num_cpus: float, num_gpus: float) -> NodeAffinitySchedulingStrategy | str:
    """Of the nodes that have room for an engine now the one with the least, which Ray prefers then.

    It would else start the engine beside its replica, which Serve spreads over the nodes; a trial's worker may need a
    node that is whole. Several that start at the same moment prefer the same node, as long as it holds them.
    """
    nodes = [(free.get("GPU", 0.0), free.get("CPU", 0.0), id_) for id_, free in available_resources_per_node().items()]
    found = [id_ for gpus, cpus, id_ in sorted(nodes) if gpus >= num_gpus and cpus >= num_cpus]
    return NodeAffinitySchedulingStrategy(found[0], soft=True, _spill_on_unavailable=True) if found else "DEFAULT"
