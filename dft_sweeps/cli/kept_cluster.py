"""One connection to Ray for a whole command, made when something is to run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from dft_sweeps.spec.plan import ClusterFacts


class KeptCluster:
    """The cluster at an address, or one started here; from the first call of `facts` to the end of the block.

    It is kept while a command waits for other processes, or goes on to another sweep: a process that had a cluster
    cannot be relied on to start another (Ray then forks the dashboard beside its own threads).
    """

    def __init__(self, address: str | None, say: Callable[[str, str], None]) -> None:
        self.address, self._say = address, say
        self._facts: ClusterFacts | None = None
        self._open = ExitStack()
        self._own_pool = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._facts:
            self._say("services", "stopping")
        self._open.close()

    def facts(self) -> ClusterFacts:
        """Raises ClusterUnavailable."""
        from dft_sweeps.orchestration.cluster import cluster

        if self._facts is None:
            own = self.address is None
            self._say("services", "starting Ray" if own else f"connecting to Ray at {self.address}")
            self._facts = self._open.enter_context(cluster(self.address))
            self._say("services", f"Ray is up: {self._facts.cpus:g} CPUs, {self._facts.gpus:g} GPUs")
        return self._facts

    def begin_pool(self, name: str) -> None:
        """Stops the pool before this one, which a cluster of our own would else have taken with it in the end."""
        from services.pool import stop_pool

        if self._own_pool:
            stop_pool(self._own_pool)
        self._own_pool = name if self.address is None else ""
