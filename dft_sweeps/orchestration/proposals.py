"""The points that a TPE search proposes, round by round, from what the trials before them have shown.

Nothing is stored but the sweep's list of trials in MLflow: a study is made anew of it for every round and thrown away.
A round is a function of the spec and of the trials before it, so that a process that died before it was listed is
replaced by one that proposes the same; once it is listed it is taken from there, whatever its trials' accuracies have
become since. Callers keep other processes from proposing meanwhile (`dft_sweeps.orchestration.sharing`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.expand import Arm, arm_of
from dft_sweeps.spec.points import Point, another, rounded, spelling
from dft_sweeps.spec.search_models import Choice, Domain, LogUniform, TpeSearch
from dft_sweeps.tracking import names

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.tracking.reader import Reader, SweepRow, TrialRow

_ASKED = 20
"""How often the study is asked for a point before one is drawn that was not proposed yet."""


State = Literal["COMPLETE", "PRUNED", "DIVERGED", "FAIL"]
"""Of a trial: trained to its end, stopped by a scheduler, ended by a loss that is not finite, or none of these."""


@dataclass(frozen=True)
class Observation:
    """What a trial of a search has shown."""

    training_id: str
    point: Point
    arm: Arm
    values: Mapping[int, float]
    """Accuracy by evaluated step: the macro average, of held-out questions where there are some."""
    state: State


def recorded(prepared: PreparedSweep, reader: Reader) -> PreparedSweep:
    """The sweep with the points that MLflow holds of it already; as it is where it proposes none.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    if not prepared.sweep.probes or (row := _sweep(reader, prepared.sweep_id)) is None:
        return prepared
    search = _search(prepared)
    known: dict[Arm, list[Point]] = {}
    for _, point, arm in _points(reader.trials(row), prepared):
        known.setdefault(arm, []).append(point)
    count = min(map(len, known.values()))
    if count == search.batch:
        return prepared
    return prepared.with_points({arm: points[search.batch : count] for arm, points in known.items()})


def next_round(prepared: PreparedSweep, reader: Reader, say: Callable[[str], None]) -> PreparedSweep | None:
    """The sweep with the points of one more round, or of all those that other processes have listed; None where there
    is no further one. Every trial known so far has ended.

    Args:
        say: takes a line on why there is none, if an arm's newest round has shown nothing. From failures alone the
            sampler would draw at random, and what it drew would stay listed.

    Raises:
        SpecError: a proposed point makes no trial.
        TrackingUnavailable: MLflow does not answer.
    """
    if not prepared.sweep.to_propose:
        return None
    known = recorded(prepared, reader)
    if len(known.trials) > len(prepared.trials):
        return known
    row = _sweep(reader, prepared.sweep_id)
    assert row is not None, prepared.sweep_id
    search = _search(prepared)
    seen: dict[Arm, list[Observation]] = {arm: [] for arm in prepared.arms}
    for each in observations(reader, row, prepared):
        seen[each.arm].append(each)
    for arm, shown in seen.items():
        if not any(each.state == "DIVERGED" or any(each.values) for each in shown[-search.batch :]):
            of = f" of {', '.join(arm)}" if arm else ""
            say(
                f"no further round is proposed: of the last one{of}, no trial was measured after step 0 and none "
                "diverged, so there is nothing to go by; once that is mended, run it again"
            )
            return None
    points = {arm: [each.point for each in shown] + propose(search, shown) for arm, shown in seen.items()}
    return prepared.with_points({arm: each[search.batch :] for arm, each in points.items()})


def observations(reader: Reader, sweep: SweepRow, prepared: PreparedSweep) -> list[Observation]:
    """What every trial of the sweep that MLflow lists has shown, in the order of the list."""
    search = _search(prepared)
    samplings = prepared.evaluation.samplings
    prefix = names.sampling_prefixes(samplings)[search.sampling or next(iter(samplings))]
    rows = reader.trials(sweep)
    values = reader.accuracy_at([row.training_id for row in rows], prepared.measures, prefix)
    return [
        Observation(row.training_id, point, arm, values.get(row.training_id, {}), _state(row))
        for row, point, arm in _points(rows, prepared)
    ]


def propose(search: TpeSearch, seen: Sequence[Observation]) -> list[Point]:
    """The next round of points of one arm, by Optuna's TPE sampler: a function of its arguments.

    A point that is proposed counts as a bad one while the rest of its round is (a constant liar), so that a round is
    spread out. Numbers have three significant digits. A point that the arm has is proposed again in its stead or, after
    some attempts, drawn at random.

    Args:
        seen: what all the arm's trials before have shown, in their order.
    """
    taken = {spelling(each.point) for each in seen}
    last = min(len(seen) + search.batch, search.trials)
    points = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the constant liar may change in later versions, of which one is pinned
        study = _study(search, seen)
        for number in range(len(seen), last):
            points.append(_asked(study, search.space, taken) or another(search.space, search.seed, number, taken))
            taken.add(spelling(points[-1]))
    return points


def _study(search: TpeSearch, seen: Sequence[Observation]) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int.from_bytes(hashlib.sha256(f"{search.seed} {len(seen)}".encode()).digest()[:4])
    # Arms begin alike, with the first round; variants' names and order change no proposal.
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_told(each, search.space) for each in seen])
    return study


def _told(each: Observation, space: Mapping[str, Domain]) -> FrozenTrial:
    """What Optuna is to know of a trial. One that diverged has got nothing right; one that failed says nothing."""
    import optuna

    choices = {path: domain for path, domain in space.items() if isinstance(domain, Choice)}
    indices = {path: _index(domain, each.point[path]) for path, domain in choices.items()}
    state, value = each.state, None
    if state == "COMPLETE":
        value = each.values[max(each.values)]
    elif state == "DIVERGED":
        state, value = "COMPLETE", 0.0
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=value,
        params=dict(sorted((each.point | indices).items())),
        distributions=_distributions(space),
        intermediate_values=dict(each.values) if each.state == "PRUNED" else None,
    )


def _asked(study: Study, space: Mapping[str, Domain], taken: set[str]) -> Point | None:
    """A point that the study proposes and is not taken; None where it proposes none in some attempts."""
    for _ in range(_ASKED):
        params = study.ask(_distributions(space)).params
        point = {path: _value(domain, params[path]) for path, domain in space.items()}
        if spelling(point) not in taken:
            return point
    return None


def _distributions(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """By path, in one order, in which numbers are drawn; a choice is of indices, for its values may be mappings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        path: CategoricalDistribution(range(len(domain.values)))
        if isinstance(domain, Choice)
        else FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))
        for path, domain in sorted(space.items())
    }


def _value(domain: Domain, param: Any) -> Any:
    return domain.values[param] if isinstance(domain, Choice) else rounded(domain, param)


def _index(domain: Choice, value: Any) -> int:
    return [spelling({"": each}) for each in domain.values].index(spelling({"": value}))


def _search(prepared: PreparedSweep) -> TpeSearch:
    search = prepared.sweep.spec.search
    assert isinstance(search, TpeSearch), search
    return search


def _sweep(reader: Reader, sweep_id: str) -> SweepRow | None:
    try:
        return reader.find_sweep(sweep_id)
    except SpecError:
        return None


def _points(rows: Sequence[TrialRow], prepared: PreparedSweep) -> list[tuple[TrialRow, Point, Arm]]:
    """The point of each trial, and its arm as the spec has it now: in another order of its axes, or with variants of
    other names, it is the same sweep. That the first round is the same tells which arm is which."""
    space = _search(prepared).space
    known = {trial.training_id: trial.trial.arm for trial in prepared.trials}
    listed = [arm_of({path: value for path, value in row.axes.items() if path not in space}) for row in rows]
    arms = {arm: known[row.training_id] for row, arm in zip(rows, listed, strict=True) if row.training_id in known}
    points = ({path: row.axes[path] for path in space} for row in rows)
    return [(row, point, arms[arm]) for row, point, arm in zip(rows, points, listed, strict=True)]


def _state(row: TrialRow) -> State:
    if row.status != "FINISHED":
        return "FAIL" if row.diverged_at is None else "DIVERGED"
    return "COMPLETE" if row.stopped_at is None else "PRUNED"
