"""What a simulation is charged with, measured on the real parts, in a process of its own with a Ray cluster of its own.

Started by `SideProcess`; the commands are functions of this module.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import queue
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.bench.side_process import serve, standard_streams

SPEC = Path(__file__).parents[1] / "end_to_end" / "sweep.yaml"
METRICS = 11
"""Of an optimizer step."""
TOKENS = 500
"""Of a completion."""
QUESTIONS, SAMPLES = 256, 4
STARTED = 8
"""The first trials, whose processes are being started."""


def tune(directory: str, trials: int, concurrent: int) -> dict[str, float]:
    """Runs empty trials as a sweep's are run: seconds of each beyond the first few, CPU and memory of this process."""
    import psutil

    from dft_sweeps.orchestration import tuning
    from dft_sweeps.orchestration.halving import Contender, Halving
    from dft_sweeps.orchestration.jobs import make_job
    from dft_sweeps.orchestration.mailbox import JobDone, start_mailbox, take_events
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep

    prepared = prepare(load_sweep(SPEC))
    job = make_job(prepared, prepared.trials[0], Path(directory))
    jobs = [replace(job, training_id=f"t-{number:016d}") for number in range(trials)]
    halving = Halving([Contender(job.training_id, job.last_step) for job in jobs])
    process, times, sizes = psutil.Process(), list[float](), list[int]()
    with patch.object(tuning, "drive_trial", _empty):
        box = start_mailbox([job.training_id for job in jobs])
        began, spent = time.monotonic(), 0.0
        with tuning.training(jobs, box, concurrent, Path(directory) / "tune", queue.SimpleQueue(), halving):
            while len(times) < trials:
                for event in take_events(box, 0.5):
                    if isinstance(event, JobDone):
                        halving.arrived(event.training_id)
                        times.append(time.monotonic() - began)
                        sizes.append(process.memory_info().rss)
                        spent = spent or (time.process_time() if len(times) == STARTED else 0.0)
            spent = time.process_time() - spent
            driver_mib = _own_mib("ImplicitFunc")
    half, counted = (trials + STARTED) // 2, trials - STARTED
    return {
        "driver_mib": driver_mib,
        "started_s": times[STARTED - 1],
        "trial_s": (times[-1] - times[STARTED - 1]) / counted,
        "first_half_s": (times[half - 1] - times[STARTED - 1]) / (half - STARTED),
        "second_half_s": (times[-1] - times[half - 1]) / (trials - half),
        "trial_cpu_s": spent / counted,
        "trial_kib": (sizes[-1] - sizes[STARTED - 1]) / 1024 / counted,
    }


def _empty(config: dict[str, Any], jobs: Mapping[str, Any], mailbox: Any) -> None:
    """In the place of `drive_trial`: a trial without work. What a driver imports is there."""
    import ray
    import ray.train.torch
    from ray import tune

    from dft_sweeps.orchestration.mailbox import JobDone

    ray.get(mailbox.put.remote(JobDone(config["training_id"])))
    tune.report({"trained": config["training_id"] in jobs})


def processes(directory: str) -> dict[str, float]:
    """MiB of its own of each process that Ray Train keeps for one group of workers, its driver and workers aside."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    box = ray.remote(num_cpus=0)(_Gate).options(max_concurrency=2).remote()
    trainer = TorchTrainer(
        lambda config: ray.get(config["box"].passed.remote()),
        train_loop_config={"box": box},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="group", storage_path=directory),
    )
    thread = threading.Thread(target=trainer.fit, daemon=True)
    thread.start()
    ray.get(box.waited.remote())
    found = {name: _own_mib(name) for name in ("TrainController", "PlacementGroupCleaner", "SynchronizationActor")}
    ray.get(box.open.remote())
    thread.join(60)
    return found


def _own_mib(actor: str) -> float:
    """Of the largest process of this cluster that is such an actor: what it shares with no other process."""
    import psutil

    found = [0.0]
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline() and child.cmdline()[0].partition(".")[0] == f"ray::{actor}":
                found.append(child.memory_full_info().uss / 2**20)
    return max(found)


class _Gate:
    """An actor at which a worker waits until its processes were looked at."""

    def __init__(self) -> None:
        import asyncio

        self._waiting, self._open = asyncio.Event(), asyncio.Event()

    async def passed(self) -> None:
        self._waiting.set()
        await self._open.wait()

    async def waited(self) -> None:
        await self._waiting.wait()

    async def open(self) -> None:
        self._open.set()


def mailbox(feeders: int, seconds: float) -> dict[str, float]:
    """Events a second through a real mailbox, from processes that wait for each to arrive, as reporters do."""
    import ray

    from dft_sweeps.orchestration.mailbox import StepRow, StepRows, start_mailbox, take_events

    box = start_mailbox()
    event = StepRows("t", (StepRow(1, 0, {f"train/{index}": 0.5 for index in range(METRICS)}),))

    def feed(box: Any, event: Any, seconds: float) -> int:
        ray.get(box.put.remote(event))
        began = time.monotonic()
        for sent in itertools.count(1):
            ray.get(box.put.remote(event))
            if time.monotonic() - began > seconds:
                return sent
        raise AssertionError

    feeding = [ray.remote(num_cpus=0)(feed).remote(box, event, seconds) for _ in range(feeders)]
    taken = looks = 0
    first = last = 0.0
    while ray.wait(feeding, num_returns=feeders, timeout=0)[1]:
        found = len(take_events(box, 0.5))
        taken, looks, last = taken + found, looks + 1, time.monotonic()
        first = first or (last if found else 0.0)
    return {"events_per_s": taken / (last - first), "looks_per_s": looks / (last - first)}


def handling() -> dict[str, float]:
    """Seconds of this process for one completion: from the engine's answer to the numbers, but for its graders'."""
    from dft_sweeps.evaluation.generator import Canary
    from dft_sweeps.evaluation.grading import GraderPool
    from dft_sweeps.evaluation.store import EvaluationStore
    from dft_sweeps.orchestration.evaluations import Evaluations
    from dft_sweeps.orchestration.mailbox import Checkpoint
    from tests.bench.simulation_sweeps import grid

    with tempfile.TemporaryDirectory() as directory, GraderPool() as graders:
        prepared, _ = grid(Path(directory), 2, 1, samples=SAMPLES, questions=QUESTIONS)
        pool = _Instant(prepared.prompts.tokenizer("So 7 and 3 is 10. " * TOKENS)["input_ids"][:TOKENS])
        side = Evaluations(prepared.benchmarks, prepared.prompts, EvaluationStore(Path(directory)), pool, graders)
        spent = []
        for step in range(4):
            checkpoint = Checkpoint(step, directory, f"weights-{step}", Canary(((1, 2),), ((-1.0,),)))
            before = time.process_time()
            side.submit("t", checkpoint, prepared.samplings_at(prepared.trials[0], step))
            assert not side.landed.get(timeout=120).error  # type: ignore[union-attr]
            spent.append(time.process_time() - before)
        side.close()
    return {"completion_s": min(spent[1:]) / (QUESTIONS * SAMPLES)}


class _Instant:
    """An engine that takes no time. Its answers come as Ray brings them: pickled."""

    replicas = fewest = 1
    adapters = 0

    def __init__(self, tokens: Sequence[int]) -> None:
        from dft_sweeps.evaluation.generator import Completion

        def one() -> Completion:  # that shares no number with another
            return Completion(tuple(tokens), tuple(-random.random() for _ in tokens), "length")

        self._answers = pickle.dumps([[one() for _ in range(SAMPLES)] for _ in range(QUESTIONS)])

    @contextmanager
    def lease(self, wait_s: float | None = None) -> Iterator[_Instant]:
        yield self

    def swap(self, *_: object) -> None:
        """It has no weights."""

    adapt = release = swap

    def generate_of(self, groups: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        [digest] = groups
        return {digest: pickle.loads(self._answers)}


def main() -> None:
    asked, answers = standard_streams()
    from dft_sweeps.orchestration.cluster import cluster, set_environment

    set_environment(None)
    with cluster(None):
        commands = {"tune": tune, "processes": processes, "mailbox": mailbox, "handling": handling}
        serve(commands, asked, answers)


if __name__ == "__main__":
    main()
