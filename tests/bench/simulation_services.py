"""The services of a simulated sweep: Ray Serve's replicas and their engines, graders, and MLflow.

Leases go through the real `services.pool.Pool` and `services.lease.Engine`, which find Serve and Ray replaced. How many
replicas there should be is decided by Serve's own policy under the pool's own settings; replicas take GPUs that are
free. What each thing takes is given (`Speeds`) or was measured on this machine (`Costs`).
"""

from __future__ import annotations

import itertools
import math
import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dft_sweeps.evaluation.generator import Canary, Completion, Request
from dft_sweeps.evaluation.grading import GraderPool, Verdict
from services.engine_actor import EngineError
from services.replica import PoolSettings
from tests.bench.simulation_clock import Clock, Lock, SimpleQueue, Thread

CONTROL_S = 1.0
"""How often Serve looks at the load (`metrics_interval_s` of the pool)."""
BATCHES = 32
"""In which an engine answers what it is asked at a time; another engine can take over what is in none yet."""
ANSWER = (7,)


@dataclass(frozen=True)
class Speeds:
    """Of trainers and engines, declared."""

    samples_per_s: float
    """That one trial trains on."""
    completions_per_s: float
    """Of one engine with a full batch."""
    standing_for: float = 1.0
    """Completions that each one of the simulation stands for."""
    workers_start_s: float = 20.0
    """Until a slot's first trial has its processes."""
    trial_start_s: float = 2.0
    """From there to the first step."""
    write_s: float = 5.0
    """Until a checkpoint is on the storage, beside training."""
    swap_s: float = 5.0
    engine_start_s: float = 60.0
    jitter: float = 0.05
    """Trials are faster or slower by up to this share, drawn from the seed."""
    seed: int = 20261123


@dataclass(frozen=True)
class Costs:
    """Of this software's own parts, measured. With the defaults it costs nothing."""

    tune_trial_s: float = 0.0
    """Seconds of Ray Tune per trial, one after the other."""
    answer_s: float = 0.0
    """Of a grading process for one answer, by all graders of its benchmark."""
    grading_processes: int = 1
    completion_s: float = 0.0
    """Of the coordinator's process for one completion: to decode, store, read and judge it, all its threads taking
    turns."""
    batch_s: float = 0.0
    """Of MLflow for one request that writes."""
    row_s: float = 0.0
    """And for every row in it."""


class Gpus:
    """The cluster's, that are free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def take(self, count: int) -> bool:
        if count > self.free:
            return False
        self.free -= count
        return True

    def give(self, count: int) -> None:
        self.free += count


class Serve:
    """As much of `ray.serve` as `services.pool.Pool.lease` uses, and its controller. No engine is ever taken down:
    Serve waits minutes with that."""

    exceptions = SimpleNamespace(RayServeException=ArithmeticError)

    def __init__(self, clock: Clock, settings: PoolSettings, gpus: Gpus, speeds: Speeds, costs: Costs) -> None:
        self._clock, self._settings, self._gpus = clock, settings, gpus
        self._engine_gpus = int(settings.engine_resources["num_gpus"])
        self._free: SimpleQueue[Actor] = SimpleQueue(clock)
        self._speeds, self._costs = speeds, costs
        self._process = Lock(clock)
        self._asked = 0
        """Leases open or asked for."""
        self.running = self._starting = 0
        self.most_running = 0
        self.busy_s = 0.0
        """Of all engines, leased."""
        self.closed = False
        self._numbers = itertools.count()
        for _ in range(settings.replicas):
            assert gpus.take(self._engine_gpus), "the pool comes first"
            self._up()
        if settings.max_replicas is not None:
            Thread(clock, self._control).start()

    def get_app_handle(self, name: str) -> Any:
        """``get_app_handle(name).options(stream=True).lease.remote()``."""
        lease = SimpleNamespace(remote=lambda: _Answers(self))
        return SimpleNamespace(options=lambda stream: SimpleNamespace(lease=lease))

    def lease(self, wait_s: float | None) -> tuple[Actor, str, float]:
        self._asked += 1
        try:
            actor = self._free.get(timeout=wait_s)
        except queue.Empty:
            self._asked -= 1
            raise TimeoutError from None
        actor.open(f"lease-{next(self._numbers)}", self._clock.now)
        return actor, actor.lease_id, self._settings.lease_timeout_s

    def ended(self, actor: Actor) -> None:
        """Called by the engine that was leased."""
        self._asked -= 1
        self.busy_s += self._clock.now - actor.since
        self._free.put(actor)

    def _up(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._free.put(Actor(self._clock, self, self._speeds, self._costs, self._process))

    def _control(self) -> None:
        decide = _policy(self._clock, self._settings)
        while not self.closed:
            self._clock.sleep(CONTROL_S)
            there = self.running + self._starting
            for _ in range(decide(self._asked, self.running, there) - there):
                if self._gpus.take(self._engine_gpus):
                    self._starting += 1
                    Thread(self._clock, self._start).start()

    def _start(self) -> None:
        self._clock.sleep(self._speeds.engine_start_s)
        self._starting -= 1
        self._up()


def _policy(clock: Clock, settings: PoolSettings) -> Callable[[int, int, int], int]:
    """Serve's own decision, from the leases, the replicas that run, and those wanted so far."""
    from ray.serve import autoscaling_policy
    from ray.serve.config import AutoscalingConfig

    from services.pool import _scaling

    config = AutoscalingConfig(**_scaling(settings)["autoscaling_config"])
    apply = autoscaling_policy._apply_autoscaling_config(autoscaling_policy.replica_queue_length_autoscaling_policy)
    state: dict[str, Any] = {}

    def decide(asked: int, running: int, target: int) -> int:
        nonlocal state
        context = SimpleNamespace(
            current_num_replicas=running, target_num_replicas=target, total_num_requests=asked, config=config,
            policy_state=state,
        )  # fmt: skip
        wanted, state = apply(context)
        return max(config.min_replicas, min(config.max_replicas, math.ceil(wanted)))

    return decide


class _Answers:
    """A streamed answer that can be given up."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    def __next__(self) -> Any:
        return self._serve.lease(None)

    def cancel(self) -> None:
        """Nothing is held before the answer."""


class Actor:
    """An engine's actor as `services.lease.Engine` calls it: every method has a ``remote``."""

    def __init__(self, clock: Clock, serve: Serve, speeds: Speeds, costs: Costs, process: Lock) -> None:
        self._clock, self._serve, self._speeds, self._costs, self._process = clock, serve, speeds, costs, process
        self.lease_id, self.since, self._digest = "", 0.0, ""
        self._waiting: deque[tuple[str, int, Request]] = deque()
        for name in ("swap", "adapt", "generate", "not_begun", "give_back", "release_lease", "renew_lease"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def open(self, lease_id: str, now: float) -> None:
        self.lease_id, self.since = lease_id, now

    def _swap(self, lease_id: str, directory: str, digest: str, canary: Canary) -> Callable[[], None]:
        def work() -> None:
            self._check(lease_id)
            if digest != self._digest:
                self._clock.sleep(self._speeds.swap_s)
            self._digest = digest

        return work

    def _adapt(self, *_: object) -> Callable[[], None]:
        raise AssertionError("no adapters here")

    def _generate(self, lease_id: str, groups: Mapping[str, Sequence[Request]]) -> Callable[[], Any]:
        """The engine's time, batch by batch, then that of the caller's process, which one thread has at a time."""
        answer = Completion(ANSWER, (-0.5,), "length")

        def work() -> dict[str, list[list[Completion]]]:
            found: dict[str, list[list[Completion]]] = {key: [[] for _ in asked] for key, asked in groups.items()}
            self._waiting.extend((key, *each) for key, asked in groups.items() for each in enumerate(asked))
            batch, completions = -(-len(self._waiting) // BATCHES), 0.0
            while self._waiting:
                begun = [self._waiting.popleft() for _ in range(min(batch, len(self._waiting)))]
                count = self._speeds.standing_for * sum(request.n for _, _, request in begun)
                completions += count
                self._clock.sleep(count / self._speeds.completions_per_s)
                self._check(lease_id)
                for digest, number, request in begun:
                    found[digest][number] = [answer] * request.n
            if self._costs.completion_s:
                with self._process:
                    self._clock.sleep(completions * self._costs.completion_s)
            return found

        return work

    def _not_begun(self, lease_id: str) -> Callable[[], int]:
        return lambda: len(self._waiting)

    def _give_back(self, lease_id: str, count: int) -> Callable[[], list[tuple[str, int]]]:
        return lambda: [self._waiting.pop()[:2] for _ in range(min(count, len(self._waiting)))]

    def _renew_lease(self, lease_id: str) -> None:
        """Answers nobody."""

    def _release_lease(self, lease_id: str) -> None:
        if lease_id == self.lease_id:
            self.lease_id = ""
            self._serve.ended(self)

    def _check(self, lease_id: str) -> None:
        if lease_id != self.lease_id:
            raise EngineError("this lease has ended")


class Graders(GraderPool):
    """The real pool, whose processes take their time on the virtual clock. Verdicts are the real ones, of graders that
    need no process."""

    def __init__(self, clock: Clock, speeds: Speeds, costs: Costs) -> None:
        super().__init__()
        self._clock, self._seconds = clock, speeds.standing_for * costs.answer_s / costs.grading_processes
        self.busy_s = 0.0

    def grade(self, items: Sequence[Any], grader: str) -> list[Verdict]:
        self.busy_s += len(items) * self._seconds
        self._clock.sleep(len(items) * self._seconds)
        return super().grade(items, grader)


class Mlflow:
    """In the place of `Tracker`, behind the real `Background`: takes as long as MLflow does, and counts."""

    address = "simulated"

    def __init__(self, clock: Clock, costs: Costs) -> None:
        self._clock, self._costs = clock, costs
        self.rows = self.requests = 0
        self.busy_s = 0.0
        self.ends: dict[str, str] = {}
        self._numbers = itertools.count()

    def open_sweep(self, name: str, sweep_id: str, *_: object) -> str:
        return "sweep"

    def open_trial(self, parent: str, training_id: str, *_: object) -> str:
        self._takes(3)  # a search, a run and its parameters
        return f"run-{next(self._numbers)}-{training_id}"

    def send(self, run_id: str, rows: Sequence[Any]) -> None:
        self.rows += len(rows)
        self._takes(1, len(rows))

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._takes(1)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self._takes(1)

    def finish(self, run_id: str, status: str, *_: object) -> None:
        self._takes(3)
        self.ends[run_id] = status

    def set_links(self, run_id: str, reused: object) -> None:
        """There are none."""

    def reconcile(self, sweep_id: str, training_ids: object = None) -> list[str]:
        return []

    def _takes(self, requests: int, rows: int = 0) -> None:
        seconds = requests * self._costs.batch_s + rows * self._costs.row_s
        self.requests += requests
        self.busy_s += seconds
        self._clock.sleep(seconds)
