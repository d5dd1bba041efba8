"""The evaluation pool: Ray Serve replicas, each owning one warm engine that trials lease, swap weights in and sample.

A lease is a Serve request held open (`max_ongoing_requests=1`), so Serve queues and balances trials; the work itself
goes to the engine's actor directly.

Failure semantics: an engine that died or broke is replaced by its replica before the next lease gets it; the lease
that met the failure gets EngineError (or the swap's own error). A lease whose owner stopped renewing it ends after
`lease_timeout_s`. A replica that cannot start an engine fails its health check, and Serve replaces the replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError

from services.engine_actor import EngineActor, EngineError
from services.engine_settings import EngineSettings
from services.lease import Engine

_FAILURE_LINES = 25


class PoolError(RuntimeError):
    """The pool, or an engine in it, could not be started."""


@dataclass(frozen=True)
class PoolSettings:
    """How many engines, what each takes from the cluster, and how long to wait for them (seconds)."""

    engine: EngineSettings
    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    start_timeout_s: float = 600.0
    lease_timeout_s: float = 60.0
    name: str = "evaluation-pool"


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
        except (RayActorError, EngineError):
            await self._replace_engine()
            await self._engine.open_lease.remote(lease_id)

    async def _hold_lease(self, lease_id: str) -> None:
        try:
            broken = await self._engine.hold_lease.remote(lease_id, self._settings.lease_timeout_s)
        except RayActorError:
            broken = "its process died"
        if broken:
            await self._replace_engine()

    async def _require_engine(self) -> None:
        try:
            await self._engine.ready.remote()
        except RayActorError:
            await self._replace_engine()

    async def _replace_engine(self) -> None:
        ray.kill(self._engine)
        await self._start_engine()

    async def _start_engine(self) -> None:
        actor: Any = ray.remote(EngineActor)
        resources = {"num_cpus": self._settings.num_cpus, "num_gpus": self._settings.num_gpus}
        self._engine: Any = actor.options(**resources).remote(self._settings.engine, self._model_directory)
        await self._engine.ready.remote()


@dataclass(frozen=True)
class Pool:
    """A running pool. Holds only its name, so that it can be sent to any process of the cluster."""

    name: str
    replicas: int

    @contextmanager
    def lease(self) -> Iterator[Engine]:
        """Waits for a free engine and lends it for the duration of the block. Not for use in an event loop.

        The engine holds whatever weights the last lease left in it: swap first. Raises PoolError when the pool is
        not there or its engine cannot be started again.
        """
        try:
            answers: Any = serve.get_app_handle(self.name).options(stream=True).lease.remote()
            try:
                actor, lease_id, timeout_s = next(answers)
            except BaseException:
                answers.cancel()  # or the replica would keep the engine for nobody until the lease times out
                raise
        except (RayError, serve.exceptions.RayServeException) as error:
            raise PoolError(
                f"no engine of the pool {self.name!r} could be leased: {_last_lines(str(error))}"
            ) from error
        engine = Engine(actor, lease_id, timeout_s)
        try:
            yield engine
        finally:
            engine.release()

    def shutdown(self) -> None:
        """Stops every engine. Open leases end with EngineError."""
        stop_pool(self.name)


def stop_pool(name: str) -> None:
    """Stops the pool of this name, started or starting, if there is one. Serve's controller stays for other pools."""
    if name in serve.status().applications:
        serve.delete(name)


def start_pool(
    settings: PoolSettings, model_directory: str, on_progress: Callable[[str], None] = lambda message: None
) -> Pool:
    """Deploys the pool on the connected cluster and waits until every engine is up.

    `model_directory` gives the architecture all swapped checkpoints must share; every node must see it. No port is
    opened: engines are reached by handles only. Raises PoolError with the last lines of what went wrong.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    decorate: Any = serve.deployment
    deployment = decorate(EngineReplica).options(
        name="engine",
        num_replicas=settings.replicas,
        max_ongoing_requests=1,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=5,
        health_check_timeout_s=settings.start_timeout_s,
        logging_config=quiet,
    )
    target = serve.RunTarget(deployment.bind(settings, model_directory), name=settings.name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    _wait_for_engines(settings, on_progress)
    return Pool(name=settings.name, replicas=settings.replicas)


def _wait_for_engines(settings: PoolSettings, on_progress: Callable[[str], None]) -> None:
    started = time.monotonic()
    reported = None
    while True:
        application = serve.status().applications[settings.name]
        deployment: Any = application.deployments.get("engine")
        running = deployment.replica_states.get("RUNNING", 0) if deployment else 0
        elapsed = time.monotonic() - started
        if running != reported:
            on_progress(f"evaluation engines: {running} of {settings.replicas} ready after {elapsed:.0f} s")
            reported = running
        if application.status == "RUNNING":
            return
        if application.status == "DEPLOY_FAILED" or elapsed > settings.start_timeout_s:
            message = (deployment.message if deployment else "") or application.message
            serve.delete(settings.name)
            raise PoolError(f"the evaluation engines did not start within {elapsed:.0f} s: {_last_lines(message)}")
        time.sleep(0.5)


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_FAILURE_LINES:])
