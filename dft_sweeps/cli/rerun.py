"""`dft-sweeps rerun`: runs a recorded sweep, or some of its trials, again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dft_sweeps.cli.client import Server, or_server_options
from dft_sweeps.cli.options import (
    json_option,
    resolve_tracking_uri,
    set_option,
    storage_option,
    tracking_uri_option,
    writable_storage,
)
from dft_sweeps.cli.printing import print_json
from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.cli.kept_cluster import KeptCluster
    from dft_sweeps.cli.run import Say
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import ClusterFacts
    from dft_sweeps.tracking.reader import Reader, SweepRow


@dataclass(frozen=True)
class Asked:
    """The options that say what of a sweep is wanted. Raises SpecError for those that exclude each other."""

    failed: bool
    cells: tuple[str, ...]
    fresh: bool
    seeds: int | None
    overrides: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.failed and self.seeds is not None:
            raise SpecError("trials of further seeds have not failed; ask for one of the two", "--failed --seeds")

    @property
    def changes(self) -> bool:
        """Whether it may become another sweep."""
        return bool(self.overrides) or self.seeds is not None

    @property
    def whole(self) -> bool:
        """Whether all of it is wanted."""
        return not (self.failed or self.cells)


@dataclass(frozen=True)
class Wanted:
    """Trials of a sweep that are to be run where they are not finished, or in any case if `fresh`."""

    prepared: PreparedSweep
    only: frozenset[str]
    """Training ids, of the trials that are known."""
    fresh: bool
    whole: bool
    """All are wanted, and with them what a search has still to propose."""


@click.command()
@click.argument("sweep", metavar="[ID]", required=False)
@click.option("--failed", is_flag=True, help="Only trials that failed or were killed.")
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="PATH=VALUE[,PATH=VALUE...]",
    help="Only trials with these values, of axes or any other field; may be repeated for further trials.",
)
@click.option("--figure", type=click.IntRange(min=1), help="The sweeps that make this figure of the paper, by name.")
@click.option("--fresh", is_flag=True, help="Run finished trials again too, from step 0 and in new runs.")
@click.option("--seeds", type=click.IntRange(min=1), help="Give every cell so many seeds in all: a larger sweep.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and start nothing.")
@set_option
@storage_option
@tracking_uri_option
@click.option("--address", help="Ray cluster to run on, e.g. auto. [default: one started here for this sweep]")
@or_server_options
@click.option("--follow", is_flag=True, help="With --server: print the progress until all has ended.")
@json_option
def command(
    sweep: str | None,
    failed: bool,
    cells: tuple[str, ...],
    figure: int | None,
    fresh: bool,
    seeds: int | None,
    dry_run: bool,
    overrides: tuple[str, ...],
    storage: Path,
    tracking_uri: str | None,
    address: str | None,
    server: str | None,
    token_file: Path | None,
    tls_certificate: Path | None,
    follow: bool,
    as_json: bool,
) -> int:
    """Run what is missing of a recorded sweep, from the spec that MLflow holds of it.

    ID is a sweep's id, the beginning of one, or the name of a sweep (its newest run). With --figure it may be
    left out: then all sweeps are rerun whose names begin with figureN, the newest of each name.

    What is finished, in any sweep, is not run again unless --fresh says so, and what another process runs is
    waited for: the command is safe to call twice. Under `scheduler: asha`, --cell and --failed take only trials
    that compete with no other unfinished one. --fresh replaces the trials' checkpoints on the storage;
    earlier runs stay in MLflow, and reports show the newest finished one. --set and --seeds make another
    sweep of the same name, which shares the trials that they leave as they were.

    With --server a service runs it on its cluster, and the command returns at once.

    \b
    Example:
      dft-sweeps rerun quickstart --failed
      dft-sweeps rerun s-3f9a --cell train.learning_rate=1e-4,train.objective.kind=dft --fresh
      dft-sweeps rerun --figure 3 --seeds 3 --dry-run
      dft-sweeps rerun quickstart --failed --server https://head:8700 --follow
    """
    from dft_sweeps.cli.gather import cluster_at
    from dft_sweeps.cli.kept_cluster import KeptCluster
    from dft_sweeps.cli.run import say_since, ui_command
    from dft_sweeps.cli.submitted_reruns import refuse_of_service, submit_reruns
    from dft_sweeps.orchestration.cluster import set_environment
    from dft_sweeps.tracking.reader import Reader

    asked = Asked(failed, cells, fresh, seeds, overrides)
    _refuse_unnamed(sweep, figure)
    if server:
        refuse_of_service({"--set": overrides, "--address": address, "--dry-run": dry_run})
        api = Server(server, token_file, tls_certificate, storage)
        return submit_reruns(api, asked, sweep, figure, follow, as_json)
    uri = resolve_tracking_uri(storage, tracking_uri)
    reader = Reader(uri)
    if as_json and not dry_run:
        raise SpecError("what would run is shown as JSON; a run itself prints progress", "--json without --dry-run")
    say = (lambda topic, message: None) if as_json else say_since(time.monotonic())
    wanted = [wanted_of(reader, row, storage, asked, say) for row in sweeps_asked(reader, sweep, figure)]
    if dry_run:
        facts = cluster_at(address)
        if as_json:
            print_json([_record(each, uri) for each in wanted])
        for each in wanted if not as_json else ():
            _show(each, uri, facts)
        return 0
    storage = writable_storage(storage)
    set_environment(address)
    with KeptCluster(address, say) as kept:
        codes = [_run(each, storage, uri, kept, say) for each in wanted]
    click.echo(f"Browse the curves: {ui_command(storage, tracking_uri)}")
    return max(codes)


def sweeps_asked(reader: Reader, sweep: str | None, figure: int | None) -> list[SweepRow]:
    """What is to be rerun, the oldest first.

    Raises:
        SpecError: there is no such sweep, or none of the figure.
    """
    from dft_sweeps.spec.reruns import of_figure

    found = reader.sweeps() if sweep is None else [reader.find_sweep(sweep)]
    return found if figure is None else of_figure(((row.name, row) for row in found), figure)


def _refuse_unnamed(sweep: str | None, figure: int | None) -> None:
    if sweep is None and figure is None:
        raise SpecError("say which sweep to rerun, by its id or name, or which --figure; `dft-sweeps list` has them")


def wanted_of(reader: Reader, row: SweepRow, storage: Path, asked: Asked, say: Say) -> Wanted:
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.orchestration.proposals import recorded
    from dft_sweeps.spec import reruns

    failed = _failed(reader, row, storage) if asked.failed else None
    stored = f"the stored spec of {row.sweep_id}"
    sweep = reruns.rerun(reader.spec_text(row), stored, asked.overrides, asked.seeds)
    prepared = recorded(prepare(sweep, lambda message: say("prepare", f"{row.name}: {message}")), reader)
    names = reruns.wanted(prepared.sweep, asked.cells, failed)
    if prepared.sweep_id != row.sweep_id:
        if not asked.changes:
            raise SpecError(_changed(reader, row, prepared), row.sweep_id)
        say("prepare", f"{row.name}: as asked for, it is the sweep {prepared.sweep_id}")
    only = frozenset(trial.training_id for trial in prepared.trials if trial.trial.name in names)
    if not asked.whole:
        _refuse_unequal(reader, prepared, only)
    left = prepared.sweep.to_propose if asked.whole else 0
    also = f", {left} of them to be proposed" if left else ""
    say("prepare", f"{row.name}: {len(only) + left} of {prepared.planned} trials are asked for{also}")
    return Wanted(prepared, only, asked.fresh, asked.whole)


def _refuse_unequal(reader: Reader, prepared: PreparedSweep, only: frozenset[str]) -> None:
    """Raises SpecError where these trials would compete among themselves, while others that compete with them wait."""
    groups = prepared.competing
    rivals = groups.keys() - only
    over = {*reader.finished_trials(rivals, prepared.measures, prepared.sweep_id)}
    over |= reader.failed_trials(rivals, prepared.measures)  # which compete no more
    asked = {groups[id_] for id_ in only if groups}
    waiting = sum(groups[id_] in asked and id_ not in over for id_ in rivals)
    if waiting:
        raise SpecError(
            f"its scheduler stops trials by comparison with all others, and {waiting} that these compete with are not "
            f"finished: verdicts among a part would be wrong, and stand; `dft-sweeps rerun {prepared.sweep_id}` runs "
            "all that is not finished",
            "--cell, --failed",
        )


def _failed(reader: Reader, row: SweepRow, storage: Path) -> set[str]:
    """Names of the trials that failed or were killed, those among them whose process ended without a word."""
    from dft_sweeps.orchestration.locks import running_elsewhere

    trials = reader.trials(row)
    alive = running_elsewhere(storage, [trial.training_id for trial in trials if trial.status == "RUNNING"])
    return {
        trial.name
        for trial in trials
        if trial.status in ("FAILED", "KILLED") or (trial.status == "RUNNING" and trial.training_id not in alive)
    }


def _changed(reader: Reader, row: SweepRow, prepared: PreparedSweep) -> str:
    """Why what the stored spec names is not what the sweep was run on."""
    before = {trial.training_id for trial in reader.trials(row)}
    trained = not {trial.training_id for trial in prepared.trials} <= before
    measured = row.measures != prepared.measures
    what = " and ".join(
        ["the model, the data or the template it trains with"] * trained + ["what it is evaluated on"] * measured
    )
    return f"{what} changed since it ran, so it would be another sweep, {prepared.sweep_id}; `run` its spec for that"


def _to_run(wanted: Wanted, uri: str) -> frozenset[str]:
    from dft_sweeps.cli.gather import finished

    return wanted.only if wanted.fresh else wanted.only - finished(uri, wanted.prepared)


def _record(wanted: Wanted, uri: str) -> dict[str, Any]:
    """The trials that would run, as JSON has them."""
    todo = _to_run(wanted, uri)
    return {
        "sweep": wanted.prepared.sweep_id,
        "name": wanted.prepared.sweep.spec.name,
        "to_propose": wanted.prepared.sweep.to_propose if wanted.whole else 0,
        "trials": [
            {"fingerprint": trial.training_id, "name": trial.trial.name, "axes": trial.trial.axes}
            for trial in wanted.prepared.trials
            if trial.training_id in todo
        ],
    }


def _show(wanted: Wanted, uri: str, cluster: ClusterFacts) -> None:
    """The plan of the trials that would run."""
    from dft_sweeps.cli.gather import plan_of
    from dft_sweeps.cli.plan_printing import print_plan

    prepared, todo = wanted.prepared, _to_run(wanted, uri)
    if not todo and not (wanted.whole and prepared.sweep.to_propose):
        return click.echo(f"Sweep {prepared.sweep_id}: nothing to run; what is asked for is finished.")
    others = frozenset(trial.training_id for trial in prepared.trials) - todo
    plan = plan_of(prepared, others, cluster, uri, known_only=not wanted.whole)
    print_plan(prepared, replace(plan, cells=plan.to_run) if todo else plan)


def _run(wanted: Wanted, storage: Path, uri: str, kept: KeptCluster, say: Say) -> int:
    from dft_sweeps.cli.run import report_outcome, run_sweep, say_what_it_is

    say_what_it_is(wanted.prepared, say)
    only = None if wanted.whole else wanted.only
    outcome = run_sweep(wanted.prepared, storage, uri, kept.address, say, only, wanted.fresh, kept)
    report_outcome(wanted.prepared, outcome, storage, uri, say)
    return 1 if outcome.failed else 0
