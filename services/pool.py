"""The evaluation pool: Ray Serve replicas, each owning one warm engine that trials lease, swap weights in and sample.

A lease is a Serve request held open (`max_ongoing_requests=1`), so Serve queues and balances trials, and knows from
the open leases how many engines there should be.

Failure semantics: an engine that died or broke is replaced by its replica before the next lease gets it; the lease
that met the failure gets EngineError (or the swap's own error). A lease whose owner stopped renewing it ends after
`lease_timeout_s`. A replica that cannot start an engine fails its health check, and Serve replaces the replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from dft_sweeps.orchestration.actors import ACTOR_DIED
from services.engine_log import reason
from services.lease import Engine
from services.replica import ENGINE_MARK, EngineReplica, PoolSettings

_UPSCALE_DELAY_S = 2.0
_STOP_GRACE_S, _STOP_TIMEOUT_S = 5.0, 60.0
_DRAIN_S = 24 * 3600.0
"""How long a surplus replica may take to end its lease. Serve stops the newest ones, leased or not."""

_ANSWER_S = 10.0


class PoolError(RuntimeError):
    """The pool, or an engine in it, could not be started."""


@dataclass(frozen=True)
class Pool:
    """A running pool. Holds only its name, so that it can be sent to any process of the cluster.

    `replicas` is the number of leases worth asking for at once: the largest number of engines there can be. `fewest`
    are up whether or not they are leased. Each holds `adapters` LoRA adapters side by side.
    """

    name: str
    replicas: int
    fewest: int = 1
    adapters: int = 0

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[Engine]:
        """Waits for a free engine and lends it for the duration of the block. Not for use in an event loop.

        The engine holds whatever weights the last lease left in it: swap first. Raises PoolError when the pool is
        not there or its engine cannot be started again, TimeoutError when none is free within `wait_s`.
        """
        try:
            answers: Any = serve.get_app_handle(self.name).options(stream=True).lease.remote()
            try:
                actor, lease_id, timeout_s = next(answers) if wait_s is None else _within(wait_s, answers)
            except BaseException:
                answers.cancel()  # or the replica would keep the engine for nobody until the lease times out
                raise
        except (RayError, serve.exceptions.RayServeException) as error:
            raise PoolError(f"no engine of the pool {self.name!r} could be leased: {reason(str(error))}") from error
        engine = Engine(actor, lease_id, timeout_s)
        try:
            yield engine
        finally:
            engine.release()

    def shutdown(self) -> None:
        """Stops every engine. Open leases end with EngineError."""
        stop_pool(self.name)


def _within(seconds: float, answers: Any) -> Any:
    """The first answer of a request. Serve bounds the waiting for it in an event loop only."""
    return asyncio.run(asyncio.wait_for(anext(answers), seconds))


def find_pool(settings: PoolSettings) -> Pool | None:
    """The pool of this name, which was started with these settings; None where it does not run."""
    application = serve.status().applications.get(settings.name)
    return _pool(settings) if application and application.status == "RUNNING" else None


def _pool(settings: PoolSettings) -> Pool:
    return Pool(settings.name, settings.most_replicas, settings.replicas, settings.engine.max_adapters)


def stop_pool(name: str) -> None:
    """Stops the pool of this name, started or starting, if there is one. Serve's controller stays for other pools.

    Engines still leased after a few seconds are killed. Raises PoolError when the pool is still there after a minute.
    """
    if name not in serve.status().applications:
        return
    serve.delete(name, _blocking=False)
    started = time.monotonic()
    while name in serve.status().applications:
        elapsed = time.monotonic() - started
        if elapsed > _STOP_TIMEOUT_S:
            raise PoolError(f"the pool {name!r} is still there {elapsed:.0f} s after it was stopped")
        if elapsed > _STOP_GRACE_S:
            _kill_replicas(name)
        time.sleep(0.1)


def _kill_replicas(name: str) -> None:
    """Ends replicas that wait for their leases; their engines die with them."""
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{name}#"):
            with suppress(ValueError):  # it ended meanwhile
                ray.kill(ray.get_actor(**actor))


def engine_nodes() -> list[tuple[str, str]]:
    """Of every engine on the cluster that is up: the name of its pool, and the id of the node where it lies."""
    asked: dict[Any, str] = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(ENGINE_MARK):
            with suppress(ValueError):  # it ended meanwhile
                asked[ray.get_actor(**actor).node.remote()] = actor["name"].removeprefix(ENGINE_MARK).partition("#")[0]
    answers, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)  # one that still starts does not
    found = []
    for answer in answers:
        with suppress(*ACTOR_DIED):
            found.append((asked[answer], ray.get(answer)))
    return found


def start_pool(
    settings: PoolSettings, model_directory: str, on_progress: Callable[[str], None] = lambda message: None
) -> Pool:
    """Deploys the pool on the connected cluster and waits until `settings.replicas` engines are up.

    `model_directory` gives the architecture all swapped checkpoints must share; every node must see it. No port is
    opened: engines are reached by handles only. Raises PoolError with the last lines of the engine's log.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    decorate: Any = serve.deployment
    deployment = decorate(EngineReplica).options(
        name="engine",
        max_ongoing_requests=1,
        max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": 0},
        health_check_timeout_s=settings.start_timeout_s,
        logging_config=quiet,
        **_scaling(settings),
    )
    target = serve.RunTarget(deployment.bind(settings, model_directory), name=settings.name, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    _wait_for_engines(settings, on_progress)
    return _pool(settings)


def _scaling(settings: PoolSettings) -> dict[str, Any]:
    """How many replicas Serve keeps. Open leases and those asked for are the load, one for each engine."""
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas, "graceful_shutdown_timeout_s": _STOP_GRACE_S}
    scaling = {
        "min_replicas": settings.replicas,
        "max_replicas": settings.max_replicas,
        "target_ongoing_requests": 1,
        "metrics_interval_s": 1.0,
        "look_back_period_s": _UPSCALE_DELAY_S,
        "upscale_delay_s": _UPSCALE_DELAY_S,
        "downscale_delay_s": settings.downscale_delay_s,
    }
    return {"autoscaling_config": scaling, "graceful_shutdown_timeout_s": _DRAIN_S}


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
            stop_pool(settings.name)
            raise PoolError(f"the evaluation engines did not start within {elapsed:.0f} s: {reason(message)}")
        time.sleep(0.5)
