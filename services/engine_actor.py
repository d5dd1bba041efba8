"""The engine as a Ray actor: one lease at a time, weights known by digest, and broken engines that say so.

State: the digest of the weights held (None until the first swap), the adapters held on them, the lease that may use
them, and, once something failed half-way, why the engine is broken. A broken engine answers nothing more; the pool
replaces its process. An engine whose decoding step does not end is a broken one; loading weights has no such bound,
since how long it takes is the storage's affair.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from services.engine import Cancelled, VllmEngine
from services.engine_log import told_on_failure
from services.engine_settings import EngineSettings, set_environment

LONGEST_STEP_S = 1800.0
"""A decoding step is one pass through the model, of seconds, or minutes for large ones on CPUs: this long, it hangs."""
_WATCH_S = 10.0


class EngineError(RuntimeError):
    """An engine that cannot answer: it died, broke, holds other weights, or the lease on it has ended."""


@dataclass(frozen=True)
class SwapReport:
    """What a swap took (0.0 when the weights were already there) and the canary's largest difference in nats."""

    seconds: float
    canary_max_difference: float


@dataclass
class _Lease:
    lease_id: str
    renewed: float = field(default_factory=time.monotonic)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)


class EngineActor:
    """Wraps a `VllmEngine` for remote callers. Its work runs in one thread, so that leases can be renewed meanwhile."""

    def __init__(self, settings: EngineSettings, model_directory: str) -> None:
        """Starts the engine. Raises EngineStartError with the last lines of its log when it does not start."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._engine = self._thread.submit(_start, settings, model_directory).result()
        self._turn = asyncio.Lock()
        self._lease: _Lease | None = None
        self._weights_digest: str | None = None
        self._canary_differences: dict[str, float] = {}  # by digest, of everything that was ever loaded
        self._broken: str | None = None

    async def ready(self) -> int:
        """Answers with its process id once the engine is up."""
        return os.getpid()

    async def node(self) -> str:
        """The id of the node where it lies."""
        return ray.get_runtime_context().get_node_id()

    async def open_lease(self, lease_id: str) -> None:
        """Gives the engine to `lease_id`. Raises EngineError when the engine is broken."""
        if self._broken:
            raise EngineError(self._broken)
        if self._lease is not None:  # its request was cancelled before it was held; the pool opens one at a time
            self._lease.cancelled.set()
            self._lease.ended.set()
        self._lease = _Lease(lease_id)

    async def hold_lease(self, lease_id: str, timeout_s: float) -> str | None:
        """Returns when the lease was released or not renewed for `timeout_s`; says why the engine is broken, if it is.

        Whatever the lease still had running is cancelled first.
        """
        lease = self._lease
        assert lease is not None and lease.lease_id == lease_id, f"{lease_id} is not the open lease"
        while not lease.ended.is_set() and time.monotonic() - lease.renewed < timeout_s:
            try:
                await asyncio.wait_for(lease.ended.wait(), timeout_s / 4)
            except TimeoutError:
                continue
        lease.cancelled.set()
        if self._lease is lease:
            self._lease = None
        async with self._turn:
            return self._broken

    async def renew_lease(self, lease_id: str) -> None:
        """Says that the lease's owner is alive. A lease that has ended is not an error here: its next use is."""
        if lease := self._open(lease_id):
            lease.renewed = time.monotonic()

    async def release_lease(self, lease_id: str) -> None:
        """Ends the lease, if it has not ended by itself."""
        if lease := self._open(lease_id):
            lease.ended.set()

    async def swap(self, lease_id: str, directory: str, weights_digest: str, canary: Canary) -> SwapReport:
        """Loads the weights in `directory` and names them `weights_digest`. The digest already held is a no-op.

        Raises ValueError, and goes on with the old weights, for a directory or canary that does not fit. Any other
        error breaks the engine: CanaryError when it does not hold what the canary was made for.
        """
        async with self._turn:
            self._require_usable(lease_id)
            if weights_digest == self._weights_digest:
                return SwapReport(0.0, self._canary_differences[weights_digest])
            started = time.perf_counter()
            await self._in_thread(self._engine.require_loadable, directory, canary)
            self._weights_digest = None
            self._broken = f"the engine is broken: its swap to {directory} did not finish"
            difference = await self._in_thread(self._engine.reload, directory, canary)
            self._broken = None
            self._weights_digest = weights_digest
            self._canary_differences[weights_digest] = difference
            return SwapReport(time.perf_counter() - started, difference)

    async def adapt(
        self, lease_id: str, base_digest: str, directory: str, weights_digest: str, canary: Canary
    ) -> SwapReport:
        """Puts the adapter in `directory` on the weights named `base_digest`, and names the two together
        `weights_digest`. A digest already held is a no-op.

        Where there is no room, the adapter goes that was not used for longest. Raises EngineError when the engine
        holds another base; otherwise as `swap` does.
        """
        async with self._turn:
            self._require_usable(lease_id)
            if base_digest != self._weights_digest:
                raise EngineError(f"an adapter of weights {base_digest}, the engine holds {self._weights_digest}")
            if weights_digest == base_digest:
                raise ValueError(f"{directory}: an adapter cannot have the digest of its base, {base_digest}")
            if weights_digest in self._engine.adapters:
                self._engine.use(weights_digest)
                return SwapReport(0.0, self._canary_differences[weights_digest])
            started = time.perf_counter()
            await self._in_thread(self._engine.require_loadable_adapter, directory, canary)
            self._broken = f"the engine is broken: the adapter {directory} did not load"
            difference = await self._in_thread(self._engine.load_adapter, directory, weights_digest, canary)
            self._broken = None
            self._canary_differences[weights_digest] = difference
            return SwapReport(time.perf_counter() - started, difference)

    async def generate(
        self, lease_id: str, groups: Mapping[str, Sequence[Request]]
    ) -> dict[str, list[list[Completion]]]:
        """Samples each group of requests from the weights, or the adapter on them, that it is keyed by, all together.

        A request that is given back meanwhile (`give_back`) has no completions. Raises EngineError when the engine
        holds no such weights, ValueError for a request that cannot be served.
        """
        async with self._turn:
            lease = self._require_usable(lease_id)
            for digest in groups:
                if digest != self._weights_digest and digest not in self._engine.adapters:
                    held = ", ".join(filter(None, (self._weights_digest, *self._engine.adapters)))
                    raise EngineError(f"asked for weights {digest}, the engine holds {held}")
            self._broken = "the engine is broken: a generation failed in it"
            work = {None if digest == self._weights_digest else digest: group for digest, group in groups.items()}
            try:
                completions = await self._in_thread(self._engine.generate_of, work, lease.cancelled)
            except ValueError:
                self._broken = None
                raise
            except Cancelled as error:
                self._broken = None
                raise _lease_ended(lease_id) from error
            self._broken = None
            return {name or self._weights_digest: group for name, group in completions.items()}

    async def not_begun(self, lease_id: str) -> int:
        """How many requests of the lease's generation under way can be given back."""
        return self._engine.not_begun if self._open(lease_id) else 0

    async def give_back(self, lease_id: str, count: int) -> list[tuple[str, int]]:
        """Takes so many requests, the last ones, out of the lease's generation under way; fewer, where fewer are not
        begun. Each is named by the digest it was asked for and its number in that group.
        """
        if not self._open(lease_id):
            return []
        digest = self._weights_digest
        return [(name or digest or "", index) for name, index in self._engine.give_back(count)]

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Raises EngineError when a decoding step of the work does not end; it is left to end with the process."""
        running = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        while not (await asyncio.wait({running}, timeout=_WATCH_S))[0]:
            if (seconds := self._engine.step_seconds) > LONGEST_STEP_S:
                raise EngineError(f"the engine hangs: a decoding step has not ended in {seconds:.0f} s")
        return running.result()

    def _open(self, lease_id: str) -> _Lease | None:
        """The lease of this id; None where another, or none, has the engine."""
        return self._lease if self._lease and self._lease.lease_id == lease_id else None

    def _require_usable(self, lease_id: str) -> _Lease:
        lease = self._open(lease_id)
        if lease is None or lease.ended.is_set():
            raise _lease_ended(lease_id)
        if self._broken:
            raise EngineError(self._broken)
        return lease


def _start(settings: EngineSettings, model_directory: str) -> VllmEngine:
    set_environment(settings)
    with told_on_failure():
        return VllmEngine(settings, model_directory)


def _lease_ended(lease_id: str) -> EngineError:
    return EngineError(f"the lease {lease_id} on this engine has ended (released, or not renewed in time)")
