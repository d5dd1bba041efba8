"""The rows of scheduling: what 1,000 trials on 500 nodes and Figure 3 on 8 GPUs would do, and what stops them first.

The real coordinator, evaluations, pool client and background writer run on a virtual clock (`simulation_run`), charged
with what Ray Tune, MLflow, graders and the coordinator's own process take as measured here on the real ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dft_sweeps.evaluation.grading import grading_processes
from dft_sweeps.orchestration.prepare import PreparedSweep
from tests.bench import grading
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, SideProcess
from tests.bench.simulation_mlflow import Taken, taken
from tests.bench.simulation_run import Simulated, simulate
from tests.bench.simulation_services import Costs, Speeds
from tests.bench.simulation_sweeps import (
    COMPLETIONS_PER_S,
    EIGHT_GPUS,
    SAMPLES_PER_S,
    figure_3,
    grid,
    nodes,
    together,
)
from tests.bench.throughput import say

TRIALS, NODES, ENGINES = 1000, 500, 166
"""So that slots and engines take about as long."""
STEPS, FEW_STEPS = 390, 60
HEAD_GIB, HEAD_CORES = 64, 64
EMPTY_TRIALS = 200
MEMORY = Path("/dev/shm")
"""Where a simulation's files lie, if it is there: a disk's time is not to be in them."""
SPEEDS = (
    f"declared: {SAMPLES_PER_S:.0f} samples/s a trial, {COMPLETIONS_PER_S:.1f} completions/s an engine, 20 s to start "
    f"workers, trials up to 5% faster or slower by the seed {Speeds.seed}"
)


@dataclass(frozen=True)
class Measured:
    """On the real parts."""

    tune: dict[str, float]
    processes: dict[str, float]
    mailbox: dict[str, float]
    handling: dict[str, float]
    sqlite: Taken
    server: Taken
    answers_per_s: float

    @property
    def schedule(self) -> Costs:
        """Of who decides and who writes."""
        return Costs(tune_trial_s=self.tune["trial_s"], batch_s=self.server.batch_s, row_s=self.server.row_s)

    def everything(self, cores: int) -> Costs:
        """And of what the coordinator's node of so many cores does with completions."""
        return replace(
            self.schedule,
            answer_s=1 / self.answers_per_s,
            completion_s=self.handling["completion_s"],
            grading_processes=grading_processes(cores),
        )


def rows(machine: Machine) -> Iterator[Row]:
    from tests.tracking.servers import MlflowServer

    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        path = Path(directory)
        try:
            with SideProcess("simulation_side", path, machine.threads) as side:
                trials = EMPTY_TRIALS // 10 if machine.quick else EMPTY_TRIALS
                tune = side.ask("tune", directory=directory, trials=trials, concurrent=machine.threads)
                processes = side.ask("processes", directory=directory)
                mailbox = side.ask("mailbox", feeders=2, seconds=2.0 if machine.quick else 10.0)
                handling = side.ask("handling")
        except SideEnded as error:
            yield Row("scheduling_1000_trials_500_nodes", "the lower bound", "s", SPEEDS, not_run=str(error))
            return
        server = MlflowServer(path)
        server.start()
        try:
            over_http = taken(server.uri, None)
        finally:
            server.kill()
        sqlite = taken(f"sqlite:///{path}/own.db", str(path / "artifacts"))
        measured = Measured(tune, processes, mailbox, handling, sqlite, over_http, answers_per_s(machine))
        say(f"measured: {measured}")
    yield from thousand(measured, machine)
    yield from hundred(measured)
    yield from figure(measured)


def answers_per_s(machine: Machine) -> float:
    """Of one grading process, both graders, no two answers alike; the floor asked for where there is no data."""
    if not grading.SHARED.is_dir():
        return grading.FLOORS["strict", "paper"]
    items = grading.completions(300 if machine.quick else 1500)
    return len(items) / grading.seconds(items, ("strict", "paper"))[0]


def thousand(measured: Measured, machine: Machine) -> Iterator[Row]:
    """A tenth of everything in a quick run."""
    scale = 10 if machine.quick else 1
    with _memory() as path:
        prepared, speeds = _grid(path, TRIALS // scale, ENGINES // scale, FEW_STEPS if machine.quick else STEPS)
        on = nodes(NODES // scale)
        found = simulate(prepared, on, speeds, measured.schedule, path / "whole")
        graded = simulate(prepared, on, speeds, measured.everything(HEAD_CORES // scale), path / "graded")
    say(f"{_told(found)}; graded {_told(graded)}")
    name = f"scheduling_{TRIALS}_trials_{NODES}_nodes"
    limits = (
        f"{first_limit(measured)}; where the coordinator's node has {HEAD_CORES // scale} cores, a quarter of them for "
        f"grading, and completions are handled, too: {graded.makespan:,.0f} s, {graded.ratio:.3f} of the bound"
    )
    yield makespan_row(name, found, found.bound.seconds, f"{_sweep(found)}; {limits}")
    yield from asked_rows(measured, found)


def hundred(measured: Measured) -> Iterator[Row]:
    """What does not need a thousand trials to be seen, at a tenth: grading, and the order of uneven trials."""
    engines, on = ENGINES // 10, nodes(NODES // 10)
    with _memory() as path:
        even, speeds = _grid(path, TRIALS // 10, engines, FEW_STEPS)
        full = simulate(even, on, speeds, measured.everything(8), path / "full")
        graded = simulate(even, on, speeds, measured.everything(32), path / "graded")
        say(f"{_told(full)}; with 8 graders {_told(graded)}")
        uneven, speeds = _grid(path, 96, engines, FEW_STEPS, uneven=True)
        spec = simulate(uneven, on, speeds, measured.schedule, path / "spec")
        longest = simulate(uneven, on, speeds, measured.schedule, path / "longest", longest_first=True)
        say(f"{_told(spec)}; longest first {_told(longest)}")
    detail = (
        f"{_sweep(full)}; and charged with {measured.answers_per_s:.0f} answers/s of each of the two grading processes "
        f"that a coordinator's node of 8 cores has, no two alike, busy {full.grading_busy:.0%} of the time, and "
        f"{1e3 * measured.handling['completion_s']:.2f} ms of the coordinator's process for a completion; with the 8 "
        f"of a node of 32 cores {graded.makespan:,.0f} s, {graded.ratio:.2f} of the bound"
    )
    yield makespan_row("scheduling_100_trials_graded", full, full.bound.seconds, detail)
    detail = (
        f"96 trials of a quarter, half and all of 20 minutes on 50 nodes, the longest last in the spec, as they are "
        f"run; longest first they take {longest.makespan:,.0f} s, {longest.ratio:.3f} of the bound"
    )
    yield makespan_row("scheduling_uneven_trials", spec, spec.bound.seconds, detail)


def first_limit(measured: Measured) -> str:
    """What a growing sweep meets first, in words."""
    mib, processes = _held(measured)
    return (
        f"the first limit is grading on the coordinator's node (not charged here): {measured.answers_per_s:.0f} "
        f"answers/s of each process, {measured.answers_per_s / COMPLETIONS_PER_S:.0f} such engines'; then the "
        f"coordinator's process, {1 / measured.handling['completion_s'] / COMPLETIONS_PER_S:.0f} engines' completions "
        f"of 500 tokens; drivers, which lie where memory is, hold {mib:.0f} MiB of their nodes for each trial at a "
        f"time, in {processes} processes: {HEAD_GIB} GiB hold {HEAD_GIB * 1024 / mib:.0f}"
    )


def _held(measured: Measured) -> tuple[float, int]:
    """MiB, and processes, of one trial beside its workers."""
    return measured.tune["driver_mib"] + sum(measured.processes.values()), 1 + len(measured.processes)


def asked_rows(measured: Measured, found: Simulated) -> Iterator[Row]:
    """What a thousand trials ask for, beside what is taken here."""
    tune, mailbox = measured.tune, measured.mailbox
    yield Row(
        "scheduling_tune_seconds_per_trial",
        "the time between two trials' ends, at which Tune alone would keep slots waiting",
        "s",
        f"{EMPTY_TRIALS} empty trials by orchestration/tuning.py: the first ended after {tune['started_s']:.1f} s, "
        f"{tune['first_half_s']:.3f} s each in the first half and {tune['second_half_s']:.3f} s in the second; the "
        f"coordinator's process grew by {tune['trial_kib']:.0f} KiB and took {1e3 * tune['trial_cpu_s']:.1f} ms of CPU "
        f"a trial",
        ours=tune["trial_s"],
        peer=found.makespan * found.slots_busy / found.finished,
    )
    yield Row(
        "scheduling_mlflow_rows_per_second",
        "what an MLflow server on SQLite takes, in requests as large as the backlog makes them",
        "rows/s",
        f"the most in 10 s, of {found.rows:,} rows, {found.rows / found.makespan:,.0f}/s on average; the last row is "
        f"in MLflow {found.mlflow_behind_s:.0f} s after the last point, the server busy {found.mlflow_busy:.0%} of the "
        f"time. Taken one step a request: server {measured.server.steps_per_s:,.0f}, SQLite "
        f"{measured.sqlite.steps_per_s:,.0f}; SQLite at the most {measured.sqlite.most_per_s:,.0f}",
        ours=found.most_rows_per_s,
        peer=measured.server.most_per_s,
    )
    yield Row(
        "scheduling_mailbox_events_per_second",
        "what a real mailbox takes from two processes that wait for each event to arrive",
        "events/s",
        f"the most in a second, of {found.events:,}; this process took {1e6 * found.cpu_s / found.events:.0f} us of "
        f"CPU for each, the simulation and the engines' threads included; the real mailbox was looked into "
        f"{mailbox['looks_per_s']:.0f} times a second",
        ours=float(found.most_events_per_s),
        peer=mailbox["events_per_s"],
    )
    mib, processes = _held(measured)
    yield Row(
        "scheduling_memory_of_a_trials_processes",
        f"a share for each trial at a time of a node with {HEAD_GIB} GiB",
        "MiB",
        f"what {processes} processes of a trial share with no other, its workers aside: driver "
        f"{tune['driver_mib']:.0f}, {', '.join(f'{name} {size:.0f}' for name, size in measured.processes.items())}; "
        f"a driver asks Ray for its memory, so drivers lie on as many nodes as that takes",
        ours=mib,
        peer=HEAD_GIB * 1024 / found.slots,
    )
    yield Row(
        "scheduling_coordinator_memory",
        "1 GiB",
        "MiB",
        f"growth of this process at the most; {found.threads} threads at the most, for {found.engines} engines",
        ours=found.memory_mib,
        peer=1024.0,
    )


def figure(measured: Measured) -> Iterator[Row]:
    with _memory() as path:
        sweeps, speeds = figure_3(path)
        costs = measured.everything(int(EIGHT_GPUS.cpus))
        found = simulate(together(sweeps), EIGHT_GPUS, speeds, costs, path / "together")
        first = simulate(sweeps[0], EIGHT_GPUS, speeds, costs, path / "first")
        rest = {trial.training_id for trial in sweeps[1].trials} - {each.training_id for each in sweeps[0].trials}
        second = simulate(sweeps[1], EIGHT_GPUS, speeds, costs, path / "second", rest)
        say(f"{_told(found)}; one after the other {_told(first)}, {_told(second)}")
    detail = (
        f"14 trials, {found.points - 13} checkpoints of 24,272 completions; {SPEEDS}; {found.slots} trials at a time "
        f"and one engine, as the specs and placement have it, later up to {found.engines} on the GPUs that trainers "
        f"leave; the bound is all work on all 8 GPUs; as two commands, one after the other: "
        f"{first.makespan + second.makespan:,.0f} s"
    )
    yield makespan_row("scheduling_figure3_8_gpus", found, found.bound_of_all_gpus, detail)


def makespan_row(name: str, found: Simulated, bound: float, detail: str) -> Row:
    return Row(name, "the lower bound of every schedule", "s", detail, ours=found.makespan, peer=bound)


def _grid(path: Path, trials: int, engines: int, steps: int, uneven: bool = False) -> tuple[PreparedSweep, Speeds]:
    """Trials of 20 minutes, whatever their steps."""
    prepared, speeds = grid(path, trials, engines, steps, questions=64, uneven=uneven)
    return prepared, replace(speeds, samples_per_s=speeds.samples_per_s * steps / STEPS)


def _sweep(found: Simulated) -> str:
    return (
        f"{found.finished:,} trials of 20 minutes, evaluated half-way and at the end on 5,436 completions each, on "
        f"nodes of one GPU: {found.slots} trials at a time, {found.engines} engines; {SPEEDS}; bound by "
        f"{found.bound.what}; slots busy {found.slots_busy:.0%}, engines {found.engines_busy:.0%}"
    )


def _told(found: Simulated) -> str:
    return (
        f"{found.makespan:,.0f} s of {found.bound.seconds:,.0f} ({found.bound.what}), {found.finished} finished, "
        f"{found.threads} threads, {found.memory_mib:.0f} MiB, {found.cpu_s:.0f} s of CPU in {found.wall_s:.0f} s"
    )


def _memory() -> Any:
    """A directory as a pathlib.Path, in memory where that can be."""
    return _Directory(prefix="bench-", dir=MEMORY if MEMORY.is_dir() else None)


class _Directory(tempfile.TemporaryDirectory[str]):
    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())
