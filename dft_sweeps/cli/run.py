"""`dft-sweeps run`: runs a sweep to its end and reports it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
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
    from dft_sweeps.cli.kept_cluster import KeptCluster
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
    takes up a sweep that was interrupted. Trials that another process runs are waited for, and run here if it ends
    without finishing them. A TPE search goes on to its last round: each is proposed once the trials before have ended,
    and what was proposed before an interruption stands.

    Code that a model brings with it is run only where DFT_SWEEPS_TRUST_REMOTE_CODE names the model: its directory or
    id on the hub; several with commas.

    \b
    Example:
      dft-sweeps run sweep_specs/quickstart.yaml
      dft-sweeps run sweep_specs/gsm8k_local.yaml --set trial.data.source.path=my.jsonl
    """
    from dft_sweeps.cli.gather import known_points
    from dft_sweeps.orchestration.cluster import set_environment
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_sweep

    say = say_since(time.monotonic())
    prepared = prepare(load_sweep(spec, overrides), lambda message: say("prepare", message))
    say_what_it_is(prepared, say)
    storage = writable_storage(storage)
    uri = resolve_tracking_uri(storage, tracking_uri)
    prepared = known_points(uri, prepared)
    set_environment(address)
    outcome = run_sweep(prepared, storage, uri, address, say)
    report_outcome(prepared, outcome, storage, uri, say)
    click.echo(f"Browse the curves: {ui_command(storage, tracking_uri)}")
    return 1 if outcome.failed else 0


def say_since(started: float) -> Say:
    """Prints lines of progress with the seconds since then, on the monotonic clock."""

    def say(topic: str, message: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {topic:<9}{message}")

    return say


def say_what_it_is(prepared: PreparedSweep, say: Say) -> None:
    """What of the data was cut, and how questions are asked."""
    from dft_sweeps.cli.plan import overlong_in_words
    from dft_sweeps.cli.prompts_in_words import prompts_in_words, sampling_in_words

    for overlong, dropped in sorted({(trial.facts.overlong, trial.facts.dropped) for trial in prepared.trials}):
        if overlong:
            say("prepare", overlong_in_words(overlong, dropped, "a trial's data"))
    for line in [prompts_in_words(prepared), *sampling_in_words(prepared)]:
        say("prepare", line)


def report_outcome(prepared: PreparedSweep, outcome: Outcome, storage: Path, uri: str, say: Say) -> None:
    """Prints and records the sweep's report. Of processes that run one sweep, one writes it at a time."""
    from dft_sweeps.cli.report import print_report
    from dft_sweeps.orchestration.locks import file_lock

    with file_lock(storage / "locks" / f"{prepared.sweep_id}.report.lock"):
        print_report(uri, storage, prepared.sweep_id)
    say("sweep", f"{outcome.finished} trials finished, {outcome.reused} reused, {len(outcome.failed)} failed")


def ui_command(storage: Path, tracking_uri: str | None) -> str:
    from dft_sweeps.tracking.store import masked

    option = f"--tracking-uri {masked(tracking_uri)}" if tracking_uri else f"--storage {os.path.relpath(storage)}"
    return f"{min(sys.argv[0], os.path.relpath(sys.argv[0]), key=len)} ui {option}"


def run_sweep(
    prepared: PreparedSweep,
    storage: Path,
    uri: str,
    address: str | None,
    say: Say,
    only: Collection[str] | None = None,
    fresh: bool = False,
    kept: KeptCluster | None = None,
) -> Outcome:
    """Runs what is missing of a sweep, and waits for trials that another process runs.

    Args:
        storage: as `writable_storage` gives it.
        uri: of MLflow.
        address: of the Ray cluster; None starts one here, and only when something is to run.
        say: takes a topic and a line of progress.
        only: training ids of the trials wanted; all if this is None, those that a search has still to propose too.
        fresh: run finished ones again, from step 0 and in new runs.
        kept: the connection to Ray, where there is one for several sweeps.

    Raises:
        SpecError: the cluster lacks what the spec asks for, or the plan exceeds the spec's budget.
        ClusterUnavailable, PoolError, TrackingUnavailable: a service cannot be reached or started.
    """
    from dft_sweeps.cli.gather import refuse_unaffordable
    from dft_sweeps.cli.kept_cluster import KeptCluster
    from dft_sweeps.orchestration.proposals import next_round
    from dft_sweeps.orchestration.sharing import run_missing
    from dft_sweeps.orchestration.trial_runs import TrialRuns
    from dft_sweeps.tracking.background import Background
    from dft_sweeps.tracking.measurements import used_hours
    from dft_sweeps.tracking.reader import Reader
    from dft_sweeps.tracking.store import masked
    from dft_sweeps.tracking.writer import Tracker

    say("prepare", f"opening MLflow at {masked(uri)}")
    tracker = Tracker(uri, artifact_root(storage, uri))
    writer = Background(tracker, storage / "spool", lambda line: say("tracking", line))
    reader = Reader(uri)
    runs = TrialRuns(writer, reader, prepared, partial(used_hours, uri, prepared.sweep_id))

    def affordable(facts: ClusterFacts) -> None:
        refuse_unaffordable(prepared, uri, facts, runs.used, only, fresh)

    def more(sweep: PreparedSweep) -> PreparedSweep | None:
        return next_round(sweep, reader, partial(say, "sweep")) if only is None else None

    with nullcontext(kept) if kept else KeptCluster(address, say) as ray:
        services = partial(_services, prepared, storage, ray, say, affordable)
        return run_missing(prepared, runs, storage, say, services, only, fresh, more)


@contextmanager
def _services(
    prepared: PreparedSweep, storage: Path, ray: KeptCluster, say: Say, affordable: Callable[[ClusterFacts], None]
) -> Iterator[tuple[Pool, int]]:
    """The evaluation pool on Ray, for the block's duration, and how many trials fit beside the pool where it lies."""
    from dft_sweeps.cli.engine_places import trials_beside
    from dft_sweeps.cli.gather import this_machine
    from dft_sweeps.cli.warm_pool import pool_of
    from dft_sweeps.orchestration.locks import pool_name

    if ray.address is None:
        _concurrent_trials(prepared, this_machine())  # before anything starts
        affordable(this_machine())
    facts = ray.facts()
    concurrent = _concurrent_trials(prepared, facts)
    affordable(facts)
    say("services", "one trial at a time" if concurrent == 1 else f"{concurrent} trials at a time")
    own = ray.address is None  # a cluster of our own takes the pool with it
    with pool_name(storage, prepared.sweep_id) as name:
        ray.begin_pool(name)
        with pool_of(prepared, name, own, lambda line: say("services", line)) as pool:
            yield pool, trials_beside(prepared, pool, concurrent, lambda line: say("services", line))


def _concurrent_trials(prepared: PreparedSweep, facts: ClusterFacts) -> int:
    from dft_sweeps.spec.plan import placement

    spec = prepared.sweep.spec
    concurrent, missing = placement(spec.execution, spec.pool, facts)
    if missing:
        raise prepared.sweep.document.error(("execution",), missing)
    return min(concurrent, len(prepared.trials))
