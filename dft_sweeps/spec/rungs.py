"""What a scheduler with rungs asks of a sweep's trials: checkpoints to judge them by, and a step beyond every rung."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dft_sweeps.spec.document import Document
from dft_sweeps.spec.models import EvaluationSpec, SweepSpec, TrialSpec
from dft_sweeps.spec.scheduler_models import AshaScheduler, Scheduler
from dft_sweeps.spec.schema import nearest

if TYPE_CHECKING:
    from dft_sweeps.spec.expand import Trial


def rungs_of(scheduler: Scheduler) -> tuple[int, ...]:
    return scheduler.rungs if isinstance(scheduler, AshaScheduler) else ()


def with_rungs(trial: TrialSpec, scheduler: Scheduler) -> TrialSpec:
    """The trial with every rung among its evaluated steps. Those that are there already are not named again, so that
    its points mean what they mean in a sweep without rungs."""
    evaluation = trial.evaluation
    named = {*evaluation.steps, *evaluation.key_steps}
    every = evaluation.every
    missing = [rung for rung in rungs_of(scheduler) if rung not in named and not (every and rung % every == 0)]
    if not missing:
        return trial
    wanted = evaluation.model_copy(update={"steps": (*evaluation.steps, *missing)})
    return trial.model_copy(update={"evaluation": wanted})


def deciding_sampling(scheduler: AshaScheduler, evaluation: EvaluationSpec) -> str:
    """The name of the sampling that verdicts go by."""
    return scheduler.sampling or next(iter(evaluation.samplings))


def group_of(spec: SweepSpec, trial: Trial) -> tuple[str, ...]:
    """What a trial competes in: the values of the axes that are apart. Where a search is on and none is named, its arm,
    for arms are to be compared at their best."""
    if not isinstance(spec.scheduler, AshaScheduler):
        return ()
    if spec.scheduler.apart:
        return tuple(str(trial.axes.get(path, "")) for path in spec.scheduler.apart)
    return () if spec.search.kind == "grid" else trial.arm


def check_scheduler(spec: SweepSpec, document: Document, trials: Sequence[Trial]) -> None:
    """What can be said of a scheduler before the trials' data is read.

    Raises:
        SpecError: a sampling that there is not, or something apart that is no axis.
    """
    if not isinstance(spec.scheduler, AshaScheduler):
        return
    scheduler, samplings = spec.scheduler, trials[0].spec.evaluation.samplings
    if scheduler.sampling is not None and scheduler.sampling not in samplings:
        raise document.error(
            ("scheduler", "sampling"), f"no sampling {scheduler.sampling!r}; {nearest(scheduler.sampling, samplings)}"
        )
    axes = {path for trial in trials for path in trial.axes if path not in trial.point}
    for index, path in enumerate(scheduler.apart):
        if path not in axes:
            known = f"; its axes are {', '.join(sorted(axes))}" if axes else ", for it has none"
            raise document.error(("scheduler", "apart", index), f"{path!r} is no axis of the sweep{known}")


def check_rungs(spec: SweepSpec, document: Document, trial: Trial, steps: int) -> None:
    """Refuses a rung that a trial of so many steps does not pass.

    Raises:
        SpecError: at the rung.
    """
    for index, rung in enumerate(rungs_of(spec.scheduler)):
        if rung >= steps:
            message = f"the rung {rung} is not below the last step, which is {steps} in the trial {trial.name!r}"
            raise document.error(("scheduler", "rungs", index), message)


def reaching(trials: int, scheduler: AshaScheduler) -> list[int]:
    """How many trials of a group train to each rung, and to the end. Where many workers are free early, a few more are
    promoted."""
    counts = [trials]
    for _ in scheduler.rungs:
        counts.append(min(counts[-1], max(1, int(counts[-1] / scheduler.reduction_factor + 1e-9))))
    return counts


def expected_steps(trials: int, last: float, scheduler: Scheduler) -> float:
    """Optimizer steps that a group of so many trials of `last` steps each takes together."""
    if not isinstance(scheduler, AshaScheduler):
        return trials * last
    ends = [0, *scheduler.rungs, last]
    parts = zip(reaching(trials, scheduler), ends, ends[1:], strict=False)
    return sum(count * (end - start) for count, start, end in parts)
