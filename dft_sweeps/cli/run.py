"""`dft-sweeps run`: runs a sweep to its end and reports it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dft_sweeps.cli.options import (
    artifact_root,
    resolve_tracking_uri,
    set_option,
    spec_argument,
    storage_option,
    tracking_uri_option,
    writable_storage,
)

if TYPE_CHECKING:
    from dft_sweeps.orchestration.coordinator import Outcome
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import ClusterFacts
    from services.pool import Pool

Say = Callable[[str, str], None]


@click.command()
@spec_argument
@set_option
@storage_option
@tracking_uri_option
@click.option("--address", help="Ray cluster to run on, e.g. auto. [default: one started here for this sweep]")
def command(
    spec: Path, overrides: tuple[str, ...], storage: Path, tracking_uri: str | None, address: str | None
) -> int:
    """Run a sweep to its end: train its trials, evaluate every checkpoint, record it in MLflow, report it.

    Trials that are finished, in this sweep or any other of the same MLflow, are not run again, so the same command
    takes up a sweep that was interrupted.

    \b
    Example:
      dft-sweeps run sweep_specs/quickstart.yaml
      dft-sweeps run sweep_specs/gsm8k_local.yaml --set trial.data.source.path=my.jsonl
    """
    from dft_sweeps.cli.plan import overlong_in_words
    from dft_sweeps.cli.prompts_in_words import prompts_in_words, sampling_in_words
    from dft_sweeps.cli.report import print_report
    from dft_sweeps.orchestration.cluster import set_environment
    from dft_sweeps.orchestration.locks import trial_locks
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep

    started = time.monotonic()

    def say(topic: str, message: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {topic:<9}{message}")

    prepared = prepare(load_sweep(spec, overrides), lambda message: say("prepare", message))
    for overlong, dropped in sorted({(trial.facts.overlong, trial.facts.dropped) for trial in prepared.trials}):
        if overlong:
            say("prepare", overlong_in_words(overlong, dropped, "a trial's data"))
    for line in [prompts_in_words(prepared), *sampling_in_words(prepared)]:
        say("prepare", line)
    storage = writable_storage(storage)
    uri = resolve_tracking_uri(storage, tracking_uri)
    set_environment(address)
    with trial_locks(storage, (trial.training_id for trial in prepared.trials)):
        outcome = _run(prepared, storage, uri, address, say)
    print_report(uri, storage, prepared.sweep_id)
    say("sweep", f"{outcome.finished} trials finished, {outcome.reused} reused, {len(outcome.failed)} failed")
    click.echo(f"Browse the curves: {_ui_command(storage, tracking_uri)}")
    return 1 if outcome.failed else 0


def _ui_command(storage: Path, tracking_uri: str | None) -> str:
    from dft_sweeps.tracking.store import masked

    option = f"--tracking-uri {masked(tracking_uri)}" if tracking_uri else f"--storage {os.path.relpath(storage)}"
    return f"{min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len)} ui {option}"


def _run(prepared: PreparedSweep, storage: Path, uri: str, address: str | None, say: Say) -> Outcome:
    from dft_sweeps.orchestration.coordinator import Coordinator, Outcome
    from dft_sweeps.orchestration.trial_runs import TrialRuns
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import masked
    from dft_sweeps.tracking.writer import Tracker

    say("prepare", f"opening MLflow at {masked(uri)}")
    runs = TrialRuns(Tracker(uri, artifact_root(storage, uri)), Reader(uri), prepared)
    coordinator = Coordinator(prepared, runs, storage, say)
    if coordinator.done:
        say("sweep", f"{coordinator.done} of {len(prepared.trials)} trials are finished already")
    if not coordinator.anything_to_do:
        runs.begin()
        runs.close("FINISHED")
        return Outcome(0, coordinator.done, {})
    with _services(prepared, address, say) as (pool, concurrent):
        return coordinator.run(pool, concurrent)


@contextmanager
def _services(prepared: PreparedSweep, address: str | None, say: Say) -> Iterator[tuple[Pool, int]]:
    """Ray and the evaluation pool, for the block's duration, and how many trials fit beside the pool."""
    from dft_sweeps.cli.engines import pool_settings, stop_tokens
    from dft_sweeps.cli.gather import this_machine
    from dft_sweeps.orchestration.cluster import cluster
    from services.pool import start_pool, stop_pool

    if address is None:
        _concurrent_trials(prepared, this_machine())  # before anything starts
    say("services", "starting Ray" if address is None else f"connecting to Ray at {address}")
    with cluster(address) as facts:
        concurrent = _concurrent_trials(prepared, facts)
        trials = "one trial" if concurrent == 1 else f"{concurrent} trials"
        say("services", f"Ray is up: {facts.cpus:g} CPUs, {facts.gpus:g} GPUs; {trials} at a time")
        stops = stop_tokens(prepared.prompts, prepared.model.directory)
        ranks = [adapter.rank for trial in prepared.trials if (adapter := trial.trial.spec.train.adapter)]
        name = f"evaluation-{prepared.sweep_id}"
        settings = pool_settings(prepared.sweep.spec.pool, stops, name, max(ranks, default=None))
        try:
            yield start_pool(settings, str(prepared.model.directory), lambda line: say("services", line)), concurrent
        finally:
            if address is not None:  # a cluster of our own takes the pool with it
                stop_pool(settings.name)
            say("services", "stopping")


def _concurrent_trials(prepared: PreparedSweep, facts: ClusterFacts) -> int:
    from dft_sweeps.spec.plan import placement

    spec = prepared.sweep.spec
    concurrent, missing = placement(spec.execution, spec.pool, facts)
    if missing:
        raise prepared.sweep.document.error(("execution",), missing)
    return min(concurrent, len(prepared.trials))
