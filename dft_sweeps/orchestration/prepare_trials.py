"""What is known of each trial before anything starts: its data, its steps, its id.

What trials share is read once, however often more of them are prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dft_sweeps.data.encode import EncodedData, encode
from dft_sweeps.data.prompt_templates import Prompts
from dft_sweeps.data.sources import Demonstrations, instruction_of, load_demonstrations
from dft_sweeps.evaluation.benchmarks import Benchmark, prompt_suffix
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import ContentDigests, digest, training_id
from dft_sweeps.spec.load import Sweep, Trial
from dft_sweeps.spec.models import (
    MOST_STEPS,
    DataSpec,
    FileSource,
    HubSource,
    NuminaMathSource,
    Source,
    TemplateName,
)
from dft_sweeps.spec.plan import TrialFacts
from dft_sweeps.spec.rungs import check_rungs
from dft_sweeps.training.model_files import ModelFiles
from dft_sweeps.training.order import total_steps


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


def _place_of(source: Source) -> tuple[str, ...]:
    """The field that says where the source lies, below `data.source`."""
    local = isinstance(source, FileSource | NuminaMathSource) and source.path is not None
    return ("path",) if local else ("id",) if isinstance(source, HubSource) else ()


def trial_reader(
    model: ModelFiles,
    asked: Prompts,
    prompts_of: Callable[[TemplateName], Prompts],
    benchmarks: dict[str, Benchmark],
) -> Callable[[Sweep], tuple[PreparedTrial, ...]]:
    """Prepares the trials of a sweep that has this model, these prompts and benchmarks."""
    read = cache(lambda source, directory, instruction: load_demonstrations(source, directory, instruction))

    @cache
    def encoded(data: DataSpec, directory: Path, trained: Prompts) -> EncodedData:
        return encode(read(data.source, directory, data.instruction).rows, data, trained)

    def prepare_trials(sweep: Sweep) -> tuple[PreparedTrial, ...]:
        found = []
        for trial in sweep.trials:
            with sweep.at(trial, "data", "template"):
                template = trial.spec.data.template
                trained = asked if template is None else prompts_of(template)
            found.append(_prepare_trial(sweep, trial, model, trained, asked, read, encoded, benchmarks))
        return tuple(found)

    return prepare_trials


def _prepare_trial(
    sweep: Sweep,
    trial: Trial,
    model: ModelFiles,
    trained: Prompts,
    asked: Prompts,
    read: Callable[[Source, Path, str | None], Demonstrations],
    encoded: Callable[[DataSpec, Path, Prompts], EncodedData],
    benchmarks: dict[str, Benchmark],
) -> PreparedTrial:
    spec = trial.spec
    source = spec.data.source
    with sweep.at(trial, "data", "source", *_place_of(source)):
        rows = read(source, sweep.directory, spec.data.instruction)
    with sweep.at(trial, "data"):
        data = encoded(spec.data.model_copy(update={"template": None}), sweep.directory, trained)
    with sweep.at(trial, "train", "batch_size"):
        steps = total_steps(spec.train, len(data))
    with sweep.at(trial, "train", "epochs"):
        if steps > MOST_STEPS:
            raise SpecError(f"{steps:,} optimizer steps; at most {MOST_STEPS:,} are planned")
    check_rungs(sweep.spec, sweep.document, trial, steps)
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
