"""The row `logging_share_of_step`: what handing 20 metrics a step over costs the training loop, as a share of its time.

One process trains the shipped base as a worker does and reports every step through the real `Reporter`: rows to the
trial's file, with an fsync, and to the mailbox's actor, once a second. Beside it the row tells how many points a second
the coordinator's background writer gets into MLflow on SQLite.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.row import Machine, Row
from tests.bench.workload import GSM8K, SHIPPED, prepare

METRICS = 20
LIMIT = 0.01
ROUND_S = 20.0
TRIALS, STEPS = 8, 250
"""Whose points the background writer is given."""


def rows(machine: Machine) -> Iterator[Row]:
    draft = {
        "name": "logging_share_of_step",
        "peer_name": "the most that it may cost",
        "unit": "of the loop's time",
        "detail": f"{SHIPPED.description}; float32, {machine.threads} threads; {METRICS} metrics a step",
    }
    if not GSM8K.is_file():
        yield Row(**draft, not_run="GSM8K's training file is not in ../shared/data/train")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        data = prepare(SHIPPED, Path(directory))
        given = {"directory": directory, "threads": machine.threads, "rounds": machine.rounds}
        given["round_s"] = 3.0 if machine.quick else ROUND_S
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.logging_share", json.dumps(given)],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            yield Row(**draft, not_run=f"its process ended with {done.returncode}: {done.stderr[-300:]}")
            return
    yield row_of(draft, json.loads(done.stdout.splitlines()[-1]), data.sentence)


def row_of(draft: dict[str, str], found: dict[str, Any], data: str) -> Row:
    shares = found["shares"]
    detail = (
        f"{draft['detail']}; {data}; median of {len(shares)} rounds, {min(shares):.2%} to {max(shares):.2%}, of "
        f"{found['step_s'] * 1000:.0f} ms steps; the longest report took {found['longest_s'] * 1000:.1f} ms; the "
        f"coordinator's background writer gets {found['points_per_s']:,.0f} points a second into MLflow on SQLite"
    )
    return Row(**draft | {"detail": detail}, ours=median(shares), peer=LIMIT)


def main() -> None:
    given = json.loads(sys.argv[1])
    directory = Path(given["directory"])
    found = reported_training(directory, given["threads"], given["rounds"], given["round_s"])
    print(json.dumps(found | {"points_per_s": points_per_second(directory)}))


def reported_training(directory: Path, threads: int, rounds: int, round_s: float) -> dict[str, Any]:
    """Shares of the loop's time by round, a step's seconds, and those of the longest report."""
    import os

    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray
    import torch

    from dft_sweeps.orchestration.mailbox import start_mailbox
    from dft_sweeps.orchestration.reporter import Reporter
    from dft_sweeps.orchestration.resume import Start
    from dft_sweeps.orchestration.trial_files import TrialFiles
    from dft_sweeps.spec.models import HistogramSpec

    torch.set_num_threads(threads)
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    reporter = Reporter("t-bench", TrialFiles(directory, "t-bench"), start_mailbox())
    reporter.started(0, Start(0), HistogramSpec())
    shares, longest, steps = [], 0.0, 0
    started = time.perf_counter()
    round_started, spent = started, 0.0
    for step, metrics in training_steps(directory):
        before = time.perf_counter()
        reporter.step(step, metrics)
        now = time.perf_counter()
        if step <= 3:  # the first ones pay for imports and for the first connection
            round_started, spent, started, steps = now, 0.0, now, 0
            continue
        spent, longest, steps = spent + now - before, max(longest, now - before), steps + 1
        if now - round_started > round_s:
            shares.append(spent / (now - round_started))
            round_started, spent = now, 0.0
        if len(shares) == rounds:
            break
    ray.shutdown()
    return {"shares": shares, "longest_s": longest, "step_s": (time.perf_counter() - started) / steps}


def training_steps(directory: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains the shipped base without end; each step with `METRICS` metrics."""
    from transformers import AutoTokenizer

    from dft_sweeps.spec.models import DftObjective, ExecutionSpec, ModelSpec, ScheduleSpec, TrainSpec
    from dft_sweeps.training.loop import StepDone, train
    from dft_sweeps.training.policy import load_policy
    from dft_sweeps.training.sharding import Ranks
    from dft_sweeps.training.state import TrainState
    from tests.bench.workload import encoded_samples, read_samples

    samples = encoded_samples(read_samples(directory), AutoTokenizer.from_pretrained(directory))
    settings = TrainSpec(
        objective=DftObjective(kind="dft"),
        learning_rate=5e-5,
        batch_size=len(samples),
        steps=100_000,
        schedule=ScheduleSpec(kind="constant", warmup_ratio=0.0),
    )
    execution = ExecutionSpec()
    policy = load_policy(directory, ModelSpec(dtype="float32"), settings, execution, "cpu")
    for event in train(TrainState(policy, settings), samples, frozenset(), execution, Ranks()):
        if isinstance(event, StepDone):
            more = {f"train/more_{index}": float(index) for index in range(METRICS - len(event.metrics))}
            yield event.step, event.metrics | more


def points_per_second(directory: Path) -> float:
    """That the background writer gets into MLflow, from the first write to the last answer."""
    from dft_sweeps.tracking.background import Background
    from dft_sweeps.tracking.writer import MetricRow, Tracker

    tracker = Tracker(f"sqlite:///{directory}/mlflow.db", str(directory / "artifacts"))
    writer = Background(tracker, directory / "spool", lambda line: print(line, file=sys.stderr))
    trials = [{"training_id": f"t-{index}", "name": f"trial {index}", "axes": {}} for index in range(TRIALS)]
    parent = writer.open_sweep("bench", "s-bench", "", trials, "m")
    runs = [writer.open_trial(parent, trial["training_id"], trial["name"], {}, {}) for trial in trials]
    writer.flush()
    started = time.perf_counter()
    for step in range(STEPS):
        for run in runs:
            writer.log(run, [MetricRow(f"train/{index}", step, 1 / (1 + step), step) for index in range(METRICS)])
    writer.flush()
    return TRIALS * STEPS * METRICS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
