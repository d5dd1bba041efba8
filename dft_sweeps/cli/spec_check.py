"""What the service does with a submitted spec before a job is made of it. Runs in one of the service's processes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dft_sweeps.spec.errors import SpecError

if TYPE_CHECKING:
    from dft_sweeps.cli.rerun import Wanted
    from dft_sweeps.spec.plan import Plan
    from dft_sweeps.tracking.reader import Reader, SweepRow
    from services.allowed import Limits
    from services.checking import CheckedSpec, Rerun, SpecText, Surroundings

NAME = "spec.yaml"
"""What errors call the submitted text."""


def check_spec(asked: SpecText | Rerun, surroundings: Surroundings, limits: Limits) -> CheckedSpec:
    """Loads a spec, submitted or recorded, refuses what it may not name, and reads what it names.

    Raises:
        SpecError: as `dft-sweeps plan`; or a file, a hub id or an amount that the service does not allow.
        TrackingUnavailable: MLflow does not answer.
    """
    from dft_sweeps.cli.gather import finished, plan_of
    from dft_sweeps.cli.plan import plan_record
    from services.allowed import refuse_too_long
    from services.checking import CheckedSpec, SpecText

    uri = surroundings.tracking_uri
    with _nowhere():
        given = isinstance(asked, SpecText)
        wanted = _submitted(asked, uri, limits) if given else _recorded(asked, surroundings, limits)
        prepared, only = wanted.prepared, wanted.only
        sweep, all_ = prepared.sweep, {trial.training_id for trial in prepared.trials}
        points = sum(len(trial.evaluated_steps) for trial in prepared.trials)
        refuse_too_long(sweep, points * prepared.planned // len(prepared.trials), limits)
        done = (all_ - only) | (frozenset() if wanted.fresh else finished(uri, prepared))
        plan = plan_of(prepared, frozenset(done), surroundings.cluster, uri, known_only=not wanted.whole)
        return CheckedSpec(
            sweep_id=prepared.sweep_id,
            name=sweep.spec.name,
            measures=prepared.measures,
            trials=prepared.planned,
            training_ids=tuple(sorted(only)),
            resolved=sweep.resolved_yaml(),
            plan=plan_record(prepared, plan),
            refusal=_refusal(wanted, plan, surroundings),
            rerun=None if given else asked,
            to_propose=plan.to_propose,
        )


def _submitted(spec: SpecText, uri: str, limits: Limits) -> Wanted:
    from dft_sweeps.cli.gather import known_points
    from dft_sweeps.cli.rerun import Wanted
    from dft_sweeps.orchestration.prepare import prepare
    from dft_sweeps.spec.load import load_stored
    from services.allowed import refuse_forbidden

    sweep = load_stored(spec.text, NAME, spec.overrides)
    refuse_forbidden(sweep, limits)
    prepared = known_points(uri, prepare(sweep))
    return Wanted(prepared, frozenset(trial.training_id for trial in prepared.trials), fresh=False, whole=True)


def _recorded(rerun: Rerun, surroundings: Surroundings, limits: Limits) -> Wanted:
    """As `dft-sweeps rerun` finds it; a sweep that was recorded elsewhere may name what a service's may not."""
    from dft_sweeps.cli.rerun import Asked, sweeps_asked, wanted_of
    from dft_sweeps.spec import reruns
    from dft_sweeps.tracking.reader import Reader
    from services.allowed import refuse_forbidden

    asked = Asked(rerun.failed, rerun.cells, rerun.fresh, rerun.seeds, ())
    reader = Reader(surroundings.tracking_uri)
    (row,) = sweeps_asked(reader, rerun.sweep_id, rerun.figure)
    refuse_forbidden(reruns.rerun(reader.spec_text(row), NAME, seeds=rerun.seeds), limits)
    return wanted_of(reader, row, surroundings.storage, asked, lambda topic, line: None)


def _refusal(wanted: Wanted, plan: Plan, surroundings: Surroundings) -> str:
    """Why a good spec is not started: what `run` would say, said before there is a job."""
    from dft_sweeps.cli.gather import refuse_unaffordable
    from dft_sweeps.tracking.measurements import used_hours

    prepared, uri = wanted.prepared, surroundings.tracking_uri
    document, only = prepared.sweep.document, None if wanted.whole else wanted.only
    if plan.missing:
        return str(document.error(("execution",), plan.missing))
    try:
        used = used_hours(uri, prepared.sweep_id)
        refuse_unaffordable(prepared, uri, surroundings.cluster, used, only, wanted.fresh)
    except SpecError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """An empty working directory: relative paths lead nowhere."""
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        yield


def trials_progress(reader: Reader, sweep: SweepRow) -> list[dict[str, Any]]:
    """How far the trials of a sweep are, as `dft-sweeps status --json` has it."""
    from dft_sweeps.cli.status import progress_of

    return [progress_of(trial) for trial in reader.trials(sweep)]
