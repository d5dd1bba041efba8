"""One simulated run of a sweep: real coordinator, evaluations, pool client and background writer on a virtual clock.

Graded completions, the store and the spool are real, on a directory of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil

from dft_sweeps.cli.warm_pool import settings_of
from dft_sweeps.orchestration import accounts, coordinator, engines, evaluations, mailbox, shards, silence
from dft_sweeps.orchestration.prepare import PreparedSweep
from dft_sweeps.orchestration.trial_runs import TrialRuns
from dft_sweeps.spec.placement import ClusterFacts, placement
from dft_sweeps.tracking import background
from dft_sweeps.tracking.background import Background
from dft_sweeps.tracking.writer import MetricRow
from services import lease
from services import pool as pools
from tests.bench.simulation_bound import Bound, lower_bound, of_all_gpus
from tests.bench.simulation_clock import Clock, Executor, queue_on, threading_on, time_on
from tests.bench.simulation_services import Costs, Gpus, Graders, Mlflow, Serve, Speeds
from tests.bench.simulation_trials import Mailbox, Tune, length_of

WINDOW_S = 10.0
"""Over which the most rows a second are counted."""


@dataclass
class Simulated:
    """Times are virtual seconds from when the engines are up, but for `cpu_s` and `wall_s`."""

    makespan: float
    bound: Bound
    bound_of_all_gpus: float
    slots: int
    engines: int
    finished: int
    points: int
    """Evaluated checkpoints."""
    events: int
    most_events_per_s: int
    rows: int
    most_rows_per_s: float
    mlflow_behind_s: float
    """Between the last point and the last row in MLflow."""
    mlflow_busy: float
    """Shares of the makespan."""
    grading_busy: float
    engines_busy: float
    slots_busy: float
    threads: int
    memory_mib: float
    cpu_s: float
    """Of this process, for the coordinator's part and the simulation's."""
    wall_s: float
    ends: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound.seconds


class _Counting(Background):
    """Notes how many rows are asked for, and when; and how much memory the process has."""

    def __init__(self, clock: Clock, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clock = clock
        self.asked: Counter[int] = Counter()
        self.most_memory = 0
        self.last_point = 0.0

    def log(self, run_id: str, rows: Sequence[MetricRow]) -> int:
        new = super().log(run_id, rows)
        self.asked[int(self._clock.now / WINDOW_S)] += new
        return new

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.last_point = self._clock.now
        self.most_memory = max(self.most_memory, psutil.Process().memory_info().rss)
        super().log_text(run_id, text, path)


def simulate(
    prepared: PreparedSweep,
    cluster: ClusterFacts,
    speeds: Speeds,
    costs: Costs,
    storage: Path,
    only: Collection[str] | None = None,
    longest_first: bool = False,
) -> Simulated:
    """Runs a sweep from nothing to its end.

    Args:
        storage: an empty directory.
        only: training ids of the trials to run; all if this is None.
        longest_first: trials are in this order, of samples trained on, rather than in the spec's.
    """
    spec, clock = prepared.sweep.spec, Clock()
    slots, missing = placement(spec.execution, spec.pool, cluster)
    assert not missing, missing
    samples = {trial.training_id: trial.facts.steps * trial.trial.spec.train.batch_size for trial in prepared.trials}
    if longest_first:
        ordered = sorted(prepared.trials, key=lambda trial: -samples[trial.training_id])
        prepared = replace(prepared, trials=tuple(ordered))
    trials = [trial for trial in prepared.trials if only is None or trial.training_id in only]
    slots = min(slots, len(trials))
    lengths = {id_: length_of(id_, count, speeds) for id_, count in samples.items()}
    gpus = Gpus(int(cluster.gpus))
    settings = settings_of(prepared, "simulated")
    serve = Serve(clock, settings, gpus, speeds, costs)
    tune = Tune(clock, speeds, costs, gpus, lengths)
    mlflow, box, graders = Mlflow(clock, costs), Mailbox(clock), Graders(clock, speeds, costs)
    lines: list[str] = []
    before, cpu, wall = psutil.Process().memory_info().rss, time.process_time(), time.monotonic()
    with _on(clock, serve, tune, box, graders):
        writer = _Counting(clock, mlflow, storage / "spool", lines.append)
        runs = TrialRuns(writer, _NOTHING, prepared)
        runs.begin()
        ids = [trial.training_id for trial in trials]
        coordinating = coordinator.Coordinator(prepared, runs, storage, lambda *line: lines.append(" ".join(line)), ids)
        outcome = coordinating.run(pools._pool(settings), slots)
        runs.close("FINISHED")
        serve.closed = True
    completions = _completions(prepared, ids, speeds)
    known = [lengths[id_] for id_ in ids]
    makespan = clock.now
    return Simulated(
        makespan=makespan,
        bound=lower_bound(known, slots, completions, settings.most_replicas, speeds),
        bound_of_all_gpus=of_all_gpus(known, completions, int(cluster.gpus), speeds),
        slots=slots,
        engines=serve.most_running,
        finished=outcome.finished,
        points=sum(len(trial.evaluated_steps) for trial in trials),
        events=box.events,
        most_events_per_s=box.most_per_s,
        rows=mlflow.rows,
        most_rows_per_s=max(writer.asked.values()) / WINDOW_S,
        mlflow_behind_s=makespan - writer.last_point,
        mlflow_busy=mlflow.busy_s / makespan,
        grading_busy=graders.busy_s / makespan,
        engines_busy=serve.busy_s / (makespan * serve.most_running),
        slots_busy=tune.busy_s / (makespan * slots),
        threads=clock.most_threads,
        memory_mib=(writer.most_memory - before) / 2**20,
        cpu_s=time.process_time() - cpu,
        wall_s=time.monotonic() - wall,
        ends=Counter(mlflow.ends.values()),
        lines=lines,
    )


_RAY_OF_LEASES = SimpleNamespace(get=lambda work: work(), is_initialized=lambda: True)
"""In the place of `ray` in `services.lease`, where what is asked of an engine is a function."""
_NOTHING: Any = SimpleNamespace(finished_trials=lambda *_: {}, finished_elsewhere=lambda *_: [])
"""What a reader finds in an empty MLflow."""


def _completions(prepared: PreparedSweep, ids: Collection[str], speeds: Speeds) -> list[float]:
    """Of every distinct checkpoint: the base model is one, whatever the number of trials."""
    questions = sum(len(benchmark.questions) for benchmark in prepared.benchmarks.values())

    def of(trial: Any, step: int) -> float:
        return (
            speeds.standing_for * questions * sum(each.samples for each in prepared.samplings_at(trial, step).values())
        )

    trials = [trial for trial in prepared.trials if trial.training_id in ids]
    return [of(trials[0], 0), *(of(trial, step) for trial in trials for step in trial.evaluated_steps if step)]


@contextlib.contextmanager
def _on(clock: Clock, serve: Serve, tune: Tune, box: Mailbox, graders: Graders) -> Iterator[None]:
    """Puts the clock and the simulated services where the modules under test look for theirs."""
    from ray.serve import autoscaling_policy

    threads, queues, times = threading_on(clock), queue_on(clock), time_on(clock)
    places: Mapping[Any, Mapping[str, Any]] = {
        coordinator: {
            "queue": queues,
            "time": times,
            "GraderPool": lambda processes: graders,
            "start_mailbox": lambda ids: box,
            "take_events": lambda mailbox, timeout_s: mailbox.take(timeout_s),
            "training": tune.training,
        },
        evaluations: {"queue": queues, "threading": threads, "time": times},
        engines: {"threading": threads, "time": times, "ThreadPoolExecutor": partial(Executor, clock)},
        shards: {"threading": threads, "time": times},
        accounts: {"Spending": partial(accounts.Spending, clock=times.monotonic)},
        mailbox: {"time": times},
        silence: {"time": times, "ray": SimpleNamespace(available_resources=dict)},
        background: {"queue": queues, "threading": threads, "time": times},
        pools: {"serve": serve, "_within": lambda seconds, _: serve.lease(seconds)},
        lease: {"ray": _RAY_OF_LEASES, "threading": threads},
        autoscaling_policy: {"time": times},
    }
    with contextlib.ExitStack() as stack:
        for module, replaced in places.items():
            stack.enter_context(patch.multiple(module, **replaced))
        yield
