"""The client's side of a lease: a `Generator` on a leased engine that can also change the engine's weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.orchestration.actors import ACTOR_DIED
from services.engine_actor import EngineError, SwapReport


class Engine:
    """A leased engine. Renews its lease from a thread of its own until released; blocking, so not for event loops."""

    def __init__(self, actor: Any, lease_id: str, timeout_s: float) -> None:
        self._actor = actor
        self._lease_id = lease_id
        self._renewal_interval_s = timeout_s / 6
        self._base_digest: str | None = None
        self._weights_digest: str | None = None
        self._released = threading.Event()
        threading.Thread(target=self._renew, name="lease renewal", daemon=True).start()

    @property
    def weights_digest(self) -> str:
        """The digest given to the last `swap` or `adapt` of this lease. Raises EngineError before the first."""
        if self._weights_digest is None:
            raise EngineError("this lease has not swapped any weights in yet")
        return self._weights_digest

    def swap(self, directory: str, weights_digest: str, canary: Canary) -> SwapReport:
        """Makes the engine hold the weights in `directory`, proved by `canary` (see `EngineActor.swap`)."""
        report: SwapReport = self._call(self._actor.swap, directory, weights_digest, canary)
        self._base_digest = self._weights_digest = weights_digest
        return report

    def adapt(self, directory: str, weights_digest: str, canary: Canary) -> SwapReport:
        """Puts the adapter in `directory` on the weights last swapped in, beside the adapters held already.

        `weights_digest` names base and adapter together; `canary` proves them (see `EngineActor.adapt`). Raises
        EngineError before the first `swap`.
        """
        if self._base_digest is None:
            raise EngineError("this lease has not swapped any weights in yet")
        report: SwapReport = self._call(self._actor.adapt, self._base_digest, directory, weights_digest, canary)
        self._weights_digest = weights_digest
        return report

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Samples `requests` from the weights last swapped in, or the adapter last put on them."""
        return self.generate_of({self.weights_digest: requests})[self.weights_digest]

    def generate_of(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[list[Completion]]]:
        """Samples requests for several weights in one batch: the weights swapped in and adapters put on them.

        Keys are digests, in the answer as well (see `EngineActor.generate`). What is given back from another thread
        meanwhile has no completions.
        """
        work = {digest: tuple(requests) for digest, requests in groups.items()}
        completions: dict[str, list[list[Completion]]] = self._call(self._actor.generate, work)
        assert completions.keys() == work.keys(), f"answered with weights {set(completions)}, not {set(work)}"
        return completions

    def not_begun(self) -> int:
        """Requests of the generation under way that can be given back."""
        count: int = self._call(self._actor.not_begun)
        return count

    def give_back(self, count: int) -> list[tuple[str, int]]:
        """Takes so many requests, or as many as are not begun, out of the generation under way, from its end (see
        `EngineActor.give_back`)."""
        given: list[tuple[str, int]] = self._call(self._actor.give_back, count)
        return given

    def release(self) -> None:
        """Ends the lease; whatever it still has running on the engine is cancelled."""
        self._released.set()
        if ray.is_initialized():
            self._actor.release_lease.remote(self._lease_id)

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(self._lease_id, *arguments))
        except ACTOR_DIED as error:
            raise EngineError(f"the engine's process died: {error}") from error

    def _renew(self) -> None:
        while not self._released.wait(self._renewal_interval_s) and ray.is_initialized():
            self._actor.renew_lease.remote(self._lease_id)
