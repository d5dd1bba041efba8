"""Reading and checking submitted specs in processes of their own, bounded in time, memory and number.

Equal specs that come together are read once. A process that dies or takes too long costs its spec, nothing else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.placement import ClusterFacts
from services.allowed import Limits

FRESH_S = 10.0
"""How long an answer stands for an equal spec: files that a spec names can change."""
MOST_WAITING = 200
_LOADED = (
    "dft_sweeps.orchestration.prepare",
    "mlflow.tracking",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen2.modeling_qwen2",
)
"""What a check imports, some seconds' worth; other architectures than this one are loaded when they are met."""


@dataclass(frozen=True)
class SpecText:
    """A spec as it was submitted."""

    text: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rerun:
    """What of a recorded sweep is asked for again, as options of `dft-sweeps rerun`."""

    sweep_id: str
    failed: bool = False
    cells: tuple[str, ...] = ()
    figure: int | None = None
    fresh: bool = False
    seeds: int | None = None

    @property
    def again(self) -> bool:
        """Whether trials are asked for that a job may have behind it."""
        return self.fresh or self.failed

    @property
    def arguments(self) -> tuple[str, ...]:
        return (
            self.sweep_id,
            *(["--failed"] if self.failed else []),
            *(f"--cell={cell}" for cell in self.cells),
            *(["--fresh"] if self.fresh else []),
            *([f"--seeds={self.seeds}"] if self.seeds else []),
        )


@dataclass(frozen=True)
class Surroundings:
    """What a plan depends on beside the spec."""

    cluster: ClusterFacts
    tracking_uri: str
    storage: Path


@dataclass(frozen=True)
class CheckedSpec:
    """A spec that loads, names only what is allowed, and whose model, data and benchmarks were read."""

    sweep_id: str
    name: str
    measures: str
    trials: int
    training_ids: tuple[str, ...]
    """Of the trials that are asked for."""
    resolved: str
    """The spec with its overrides applied, as YAML."""
    plan: dict[str, Any]
    """As `dft-sweeps plan --json`."""
    refusal: str = ""
    """Why it is planned, but not started: it exceeds its budget, or the cluster can never place it."""
    rerun: Rerun | None = None
    """What its job is to run again; None where it is to run what is missing."""
    to_propose: int = 0
    """Trials asked for that a search has still to propose."""


Check = Callable[[SpecText | Rerun, Surroundings, Limits], CheckedSpec]
"""A function of a module. Raises SpecError for whatever is wrong with the spec."""


class Busy(RuntimeError):
    """Too many specs wait to be read."""


class Checker:
    """Runs `check` in `workers` processes; `close` ends them."""

    def __init__(self, check: Check, limits: Limits, workers: int = 2) -> None:
        from pebble import ProcessPool

        # A fork server: children come from a process without threads that has the large libraries loaded.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([check.__module__, *_LOADED])
        self._check, self._limits = check, limits
        self._children = ProcessPool(
            workers, max_tasks=100, initializer=_bound_memory, initargs=[limits.check_gib], context=context
        )
        self._known: dict[str, tuple[float, asyncio.Task[CheckedSpec]]] = {}

    async def check(self, spec: SpecText | Rerun, surroundings: Surroundings) -> CheckedSpec:
        """Raises SpecError for the spec's mistakes, `Busy` where too many others wait."""
        now = time.monotonic()
        self._known = {key: known for key, known in self._known.items() if not _is_stale(*known, now)}
        content = json.dumps([type(spec).__name__, asdict(spec), asdict(surroundings)], default=str)
        key = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
        if key not in self._known:
            if sum(not task.done() for _, task in self._known.values()) >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} specs wait to be read")
            task = asyncio.create_task(self._run(spec, surroundings))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait
            self._known[key] = now, task
        # A client that goes away takes no answer from the others that wait for the same.
        return await asyncio.shield(self._known[key][1])

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        self._children.stop()
        self._children.join()

    async def _run(self, spec: SpecText | Rerun, surroundings: Surroundings) -> CheckedSpec:
        from pebble import ProcessExpired

        arguments = (spec, surroundings, self._limits)
        future = self._children.schedule(self._check, arguments, timeout=self._limits.check_s)
        try:
            return await asyncio.wrap_future(future)
        except concurrent.futures.TimeoutError as error:
            raise SpecError(f"reading what the spec names took longer than {self._limits.check_s:g} s") from error
        except (ProcessExpired, MemoryError) as error:
            raise SpecError(
                f"reading what the spec names took more than the {self._limits.check_gib} GiB of memory that it may"
            ) from error


def _is_stale(begun: float, task: asyncio.Task[CheckedSpec], now: float) -> bool:
    return task.done() and now - begun > FRESH_S


def _bound_memory(gib: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (gib << 30, gib << 30))
