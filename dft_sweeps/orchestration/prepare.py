"""Everything that can be known about a sweep before anything starts: models, data, benchmarks, ids.

All that a spec names is read and checked here, so that a mistake in it costs one message and no run. What trials of a
sweep share is read once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from dft_sweeps.data.prompt_templates import Prompts, choose_template, read_tokenizer
from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.evaluation.evaluate import check_lengths
from dft_sweeps.orchestration.measures import in_context, measures_of
from dft_sweeps.orchestration.prepare_trials import PreparedTrial, trial_reader
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.expand import Arm
from dft_sweeps.spec.identity import course_of, sweep_id
from dft_sweeps.spec.load import Sweep, Trial
from dft_sweeps.spec.models import EaftObjective, EvaluationSpec, SamplingSpec, TemplateName
from dft_sweeps.spec.points import Point
from dft_sweeps.spec.rungs import group_of, rungs_of
from dft_sweeps.spec.schema import nearest
from dft_sweeps.training.model_files import EMBEDDED, ModelFiles, end_tokens, inspect_model, resolve_model

if TYPE_CHECKING:
    pass

__all__ = ["PreparedSweep", "PreparedTrial", "prepare"]


@dataclass(frozen=True)
class PreparedSweep:
    sweep: Sweep
    sweep_id: str
    measures: str
    """Hash of what its points mean."""
    model: ModelFiles
    prompts: Prompts
    """As questions are written."""
    trials: tuple[PreparedTrial, ...]
    """As of the `sweep`: those whose points are known."""
    benchmarks: dict[str, Benchmark]
    """Every benchmark of the sweep by name."""
    prepare_trials: Callable[[Sweep], tuple[PreparedTrial, ...]] = field(repr=False, compare=False)
    """Reads what the trials of a sweep name that has the same template, and nothing of it twice."""

    @property
    def evaluation(self) -> EvaluationSpec:
        """The same for every trial."""
        return self.trials[0].trial.spec.evaluation

    @property
    def arms(self) -> tuple[Arm, ...]:
        """What a search is made for apart, in the order of the spec."""
        return tuple(dict.fromkeys(trial.trial.arm for trial in self.trials))

    @property
    def competing(self) -> dict[str, tuple[str, ...]]:
        """Training id to what the trial competes in for the scheduler's verdicts; none where it gives none."""
        spec = self.sweep.spec
        trials = self.trials if rungs_of(spec.scheduler) else ()
        return {trial.training_id: group_of(spec, trial.trial) for trial in trials}

    @property
    def planned(self) -> int:
        """Trials in all, with those whose points a search has not proposed yet."""
        return len(self.trials) + self.sweep.to_propose

    def with_points(self, proposed: Mapping[Arm, Sequence[Point]]) -> PreparedSweep:
        """The same sweep with these points of its search beside those that its seed gives, as many for every arm.

        Raises:
            SpecError: a point that makes no trial.
        """
        sweep = self.sweep.with_points(proposed)
        trials = self.prepare_trials(sweep)
        _check_distinct(sweep, trials)
        return replace(self, sweep=sweep, trials=trials)

    def samplings_at(self, trial: PreparedTrial, step: int) -> dict[str, SamplingSpec]:
        """How the weights of a step are sampled, by the samplings' names, with engines' context and dtype."""
        evaluation, pool = self.evaluation, self.sweep.spec.pool
        at = {name: evaluation.sampling_at(name, step, trial.facts.steps) for name in evaluation.samplings}
        return {name: in_context(sampling, pool.max_model_len, pool.dtype) for name, sampling in at.items()}


def prepare(sweep: Sweep, on_progress: Callable[[str], None] = lambda message: None) -> PreparedSweep:
    """Reads and checks whatever the spec names.

    Raises:
        SpecError: a model, data or benchmark that is not there or not as the spec has it.
    """
    on_progress("reading the model")
    first = _one_model(sweep)
    with sweep.at(first, "model", "path"):
        model = inspect_model(resolve_model(first.spec.model, sweep.directory), first.spec.model.path)
        tokenizer = read_tokenizer(model.directory, model.trusted)

    written = cache(lambda template: Prompts(tokenizer, template))

    def prompts_of(template: TemplateName) -> Prompts:
        return written(choose_template(template, first.spec.model.path, model.directory))

    with sweep.at(first, "evaluation", "template"):
        prompts = prompts_of(first.spec.evaluation.template)
    with sweep.at(first, "model", "revision"):
        local = model.directory in (EMBEDDED, sweep.directory / os.path.expanduser(first.spec.model.path))
        if local and first.spec.model.revision is not None:
            raise SpecError(f"a model of the hub has revisions, but {first.spec.model.path!r} is a local directory")
    _check_context(sweep, model)
    for trial in (*sweep.trials, *sweep.probes):
        _check_trains(sweep, trial, model)
    on_progress("reading data and benchmarks")
    benchmarks = _benchmarks(sweep, prompts)
    prepare_trials = trial_reader(model, prompts, prompts_of, benchmarks)
    _check_distinct(sweep, prepare_trials(replace(sweep, trials=sweep.probes)))
    trials = prepare_trials(sweep)
    _check_distinct(sweep, trials)
    pool, ends = sweep.spec.pool, end_tokens(model.directory, model.trusted)
    measures = measures_of(first.spec.evaluation, benchmarks, prompts, pool.max_model_len, pool.dtype, ends)
    ids = [trial.training_id for trial in trials]
    id_ = sweep_id(sweep.spec.name, ids, measures, course_of(sweep.spec))
    return PreparedSweep(sweep, id_, measures, model, prompts, trials, benchmarks, prepare_trials)


def _one_model(sweep: Sweep) -> Trial:
    """The first trial, whose model all the others share."""
    first = sweep.trials[0]
    for trial in (*sweep.trials, *sweep.probes):
        with sweep.at(trial, "model", "path"):
            ours, its = ((each.spec.model.path, each.spec.model.revision) for each in (first, trial))
            if ours != its:
                raise SpecError(
                    f"the trials of a sweep share one model, for its engines hold one architecture; "
                    f"found {ours[0]!r} and {its[0]!r}" + (" of another revision" if ours[0] == its[0] else "")
                )
    return first


def _check_distinct(sweep: Sweep, trials: Sequence[PreparedTrial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.training_id, trial.trial)
        if other.axes != trial.trial.axes:  # a sweep's probes may be equal
            raise sweep.document.error(
                ("search", "space") if trial.trial.point else ("axes",),
                f"the trials {other.name!r} and {trial.trial.name!r} train the same policy on the same data "
                f"({trial.training_id}), so they are one trial; evaluate it in all the ways that are wanted",
            )


def _check_context(sweep: Sweep, model: ModelFiles) -> None:
    message = f"tokens, but the model's context is {model.context} tokens"
    longest = sweep.spec.pool.max_model_len
    if longest > model.context:
        raise sweep.document.error(("pool", "max_model_len"), f"{longest} {message}")
    for trial in (*sweep.trials, *sweep.probes):
        with sweep.at(trial, "data", "max_length"):
            if trial.spec.data.max_length > model.context:
                raise SpecError(f"{trial.spec.data.max_length} {message}")


def _check_trains(sweep: Sweep, trial: Trial, model: ModelFiles) -> None:
    """What the model must have for this trial to be trained."""
    train = trial.spec.train
    with sweep.at(trial, "train", "objective", "top"):
        if isinstance(train.objective, EaftObjective) and train.objective.top > model.vocabulary:
            raise SpecError(f"{train.objective.top} tokens, but the model has only {model.vocabulary}")
    with sweep.at(trial, "train", "adapter", "target"):
        if train.adapter is not None and train.adapter.target != "all-linear":
            for target in train.adapter.target:
                if not any(f".{name}".endswith(f".{target}") for name in model.linear_layers):
                    known = {name.split(".")[-1] for name in model.linear_layers}
                    raise SpecError(f"no linear module {target!r} in the model; {nearest(target, known)}")
    with sweep.at(trial, "model", "dtype"):
        if sweep.spec.execution.attention == "flash_attention_2" and trial.spec.model.dtype != "bfloat16":
            raise SpecError(f"execution.attention flash_attention_2 computes in bfloat16, not {trial.spec.model.dtype}")


def _benchmarks(sweep: Sweep, prompts: Prompts) -> dict[str, Benchmark]:
    """What every trial is evaluated on, by name; no axis changes it."""
    trial = sweep.trials[0]
    evaluation = trial.spec.evaluation
    benchmarks: dict[str, Benchmark] = {}
    longest = sweep.spec.pool.max_model_len
    for name, sampling in evaluation.samplings.items():
        with sweep.at(trial, "evaluation", "samplings", name, "context"):
            if sampling.context is not None and sampling.context > longest:
                raise SpecError(f"{sampling.context} tokens, but engines take pool.max_model_len, which is {longest}")
            longest = min(longest, sampling.context or longest)
    for index, spec in enumerate(evaluation.benchmarks):
        with sweep.at(trial, "evaluation", "benchmarks", index):
            benchmarks[spec.name] = load_benchmark(spec, sweep.directory)
            check_lengths(benchmarks[spec.name], prompts, longest)
            if evaluation.selection_share is not None and len(benchmarks[spec.name].questions) < 2:
                raise SpecError("evaluation.selection_share holds questions out, but there is only one")
    return benchmarks
