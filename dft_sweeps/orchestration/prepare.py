"""Everything that can be known about a sweep before anything starts: models, data, benchmarks, ids.

All that a spec names is read and checked here, so that a mistake in it costs one message and no run. What trials of a
sweep share is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.data.encode import EncodedData, encode
from dft_sweeps.data.prompt_templates import Prompts, choose_template
from dft_sweeps.data.sources import Demonstrations, instruction_of, load_demonstrations
from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark, prompt_suffix
from dft_sweeps.evaluation.evaluate import check_lengths
from dft_sweeps.orchestration.measures import in_context, measures_of
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import ContentDigests, digest, sweep_id, training_id
from dft_sweeps.spec.load import Sweep, Trial
from dft_sweeps.spec.models import (
    MOST_STEPS,
    DataSpec,
    EaftObjective,
    EvaluationSpec,
    FileSource,
    HubSource,
    NuminaMathSource,
    SamplingSpec,
    Source,
    TemplateName,
)
from dft_sweeps.spec.plan import TrialFacts
from dft_sweeps.spec.schema import nearest
from dft_sweeps.training.model_files import EMBEDDED, ModelFiles, end_tokens, inspect_model, resolve_model
from dft_sweeps.training.order import total_steps

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _place_of(source: Source) -> tuple[str, ...]:
    """The field that says where the source lies, below `data.source`."""
    local = isinstance(source, FileSource | NuminaMathSource) and source.path is not None
    return ("path",) if local else ("id",) if isinstance(source, HubSource) else ()


@dataclass(frozen=True)
class PreparedTrial:
    trial: Trial
    facts: TrialFacts
    data: EncodedData
    data_digest: str
    """Identity of the encoded samples."""

    @property
    def training_id(self) -> str:
        return self.facts.training_id

    @property
    def evaluated_steps(self) -> tuple[int, ...]:
        return self.trial.spec.evaluation.due(self.facts.steps)


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
    benchmarks: dict[str, Benchmark]
    """Every benchmark of the sweep by name."""

    @property
    def evaluation(self) -> EvaluationSpec:
        """The same for every trial."""
        return self.trials[0].trial.spec.evaluation

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
        model = inspect_model(resolve_model(first.spec.model, sweep.directory))
        tokenizer = _tokenizer(model.directory)

    written = cache(lambda template: Prompts(tokenizer, template))

    def prompts_of(template: TemplateName) -> Prompts:
        return written(choose_template(template, first.spec.model.path, model.directory))

    with sweep.at(first, "evaluation", "template"):
        prompts = prompts_of(first.spec.evaluation.template)
    with sweep.at(first, "model", "revision"):
        local = model.directory in (EMBEDDED, sweep.directory / Path(first.spec.model.path).expanduser())
        if local and first.spec.model.revision is not None:
            raise SpecError(f"a model of the hub has revisions, but {first.spec.model.path!r} is a local directory")
    _check_context(sweep, model)
    for trial in sweep.trials:
        _check_trains(sweep, trial, model)
    on_progress("reading data and benchmarks")
    benchmarks = _benchmarks(sweep, prompts)
    trials = _prepare_trials(sweep, model, prompts, prompts_of, benchmarks)
    _check_distinct(sweep, trials)
    pool, ends = sweep.spec.pool, end_tokens(model.directory)
    measures = measures_of(first.spec.evaluation, benchmarks, prompts, pool.max_model_len, pool.dtype, ends)
    id_ = sweep_id(sweep.spec.name, [trial.training_id for trial in trials], measures)
    return PreparedSweep(sweep, id_, measures, model, prompts, trials, benchmarks)


def _one_model(sweep: Sweep) -> Trial:
    """The first trial, whose model all the others share."""
    first = sweep.trials[0]
    for trial in sweep.trials:
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
        if other is not trial.trial:
            raise sweep.document.error(
                ("axes",),
                f"the trials {other.name!r} and {trial.trial.name!r} train the same policy on the same data "
                f"({trial.training_id}), so they are one trial; evaluate it in all the ways that are wanted",
            )


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _check_context(sweep: Sweep, model: ModelFiles) -> None:
    message = f"tokens, but the model's context is {model.context} tokens"
    longest = sweep.spec.pool.max_model_len
    if longest > model.context:
        raise sweep.document.error(("pool", "max_model_len"), f"{longest} {message}")
    for trial in sweep.trials:
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


def _prepare_trials(
    sweep: Sweep,
    model: ModelFiles,
    asked: Prompts,
    prompts_of: Callable[[TemplateName], Prompts],
    benchmarks: dict[str, Benchmark],
) -> tuple[PreparedTrial, ...]:
    read = cache(lambda source, instruction: load_demonstrations(source, sweep.directory, instruction))

    @cache
    def encoded(data: DataSpec, trained: Prompts) -> EncodedData:
        return encode(read(data.source, data.instruction).rows, data, trained)

    found = []
    for trial in sweep.trials:
        with sweep.at(trial, "data", "template"):
            template = trial.spec.data.template
            trained = asked if template is None else prompts_of(template)
        found.append(_prepare_trial(sweep, trial, model, trained, asked, read, encoded, benchmarks))
    return tuple(found)


def _prepare_trial(
    sweep: Sweep,
    trial: Trial,
    model: ModelFiles,
    trained: Prompts,
    asked: Prompts,
    read: Callable[[Source, str | None], Demonstrations],
    encoded: Callable[[DataSpec, Prompts], EncodedData],
    benchmarks: dict[str, Benchmark],
) -> PreparedTrial:
    spec = trial.spec
    source = spec.data.source
    with sweep.at(trial, "data", "source", *_place_of(source)):
        rows = read(source, spec.data.instruction)
    with sweep.at(trial, "data"):
        data = encoded(spec.data.model_copy(update={"template": None}), trained)
    with sweep.at(trial, "train", "batch_size"):
        steps = total_steps(spec.train, len(data))
    with sweep.at(trial, "train", "epochs"):
        if steps > MOST_STEPS:
            raise SpecError(f"{steps:,} optimizer steps; at most {MOST_STEPS:,} are planned")
    for field in ("steps", "key_steps"):
        for index, step in enumerate(getattr(spec.evaluation, field)):
            with sweep.at(trial, "evaluation", field, index):
                if step > steps:
                    raise SpecError(f"step {step} is beyond the last, which is {steps} in the trial {trial.name!r}")
    content = ContentDigests(model.digest, rows.digest, trained.digest)
    own = spec.data.model_dump(exclude={"source", "instruction", "template"})
    identity = digest([content.data, trained.digest, model.digest, own])
    names = [benchmark.name for benchmark in spec.evaluation.benchmarks]
    instruction = instruction_of(source, spec.data.instruction)
    facts = TrialFacts(
        training_id=training_id(spec, content),
        steps=steps,
        samples=len(data),
        overlong=data.overlong,
        tokens_per_sample=data.tokens / len(data),
        questions={name: len(benchmarks[name].questions) for name in names},
        dropped=(spec.data.samples or len(rows.rows)) - len(data),
        instruction=instruction,
        template=trained.template,
        prompted_otherwise=tuple(name for name in names if not _ends_as(rows, instruction, prompt_suffix(name))),
        templated_otherwise=trained.digest != asked.digest,
    )
    return PreparedTrial(trial, facts, data, identity)


def _ends_as(rows: Demonstrations, instruction: str, suffix: str) -> bool:
    """Whether training prompts end with a benchmark's suffix: appended to them, or in the rows as they were read."""
    return instruction == suffix or (not instruction and all(row.prompt.endswith(suffix) for row in rows.rows))
