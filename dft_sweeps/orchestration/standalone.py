"""Evaluating checkpoints on their own, without a sweep.

Its only state is the store's, which sweeps share: what is there is never generated again, whoever generated it.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dft_sweeps.data.encode import Sample
from dft_sweeps.data.prompt_templates import Prompts, choose_template, read_tokenizer
from dft_sweeps.evaluation.benchmarks import Benchmark
from dft_sweeps.evaluation.evaluate import check_lengths, evaluation_key, longest_prompt
from dft_sweeps.evaluation.generator import Canary
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.results import EvaluationKey, Judgements
from dft_sweeps.evaluation.store import CorruptEntry, EvaluationStore
from dft_sweeps.orchestration.measures import in_context
from dft_sweeps.spec import schema
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import EvaluationSpec, ModelSpec, SamplingSpec
from dft_sweeps.training.model_files import EMBEDDED, ModelFiles, inspect_model, resolve_model

if TYPE_CHECKING:
    from dft_sweeps.orchestration.evaluations import EnginePool, Evaluated, Evaluations

SILENCE_S = 30.0
"""Seconds without a result after which it is said that work goes on."""
_CANARY_PROMPTS = 4

Benchmarks = Mapping[str, Benchmark]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint, and what is asked of it."""

    name: str
    """As the user gave it."""
    model: ModelFiles
    prompts: Prompts
    samplings: Mapping[str, SamplingSpec]

    def keys(self, benchmarks: Benchmarks) -> Iterator[tuple[str, Benchmark, EvaluationKey]]:
        """Every evaluation asked for, with the name of its sampling."""
        for name, sampling in self.samplings.items():
            for benchmark in benchmarks.values():
                yield name, benchmark, evaluation_key(self.model.weights_digest, benchmark, sampling, self.prompts)

    def longest(self, benchmarks: Benchmarks) -> int:
        """Tokens of the longest prompt and completion together that an engine must take."""
        prompt = max(longest_prompt(benchmark, self.prompts) for benchmark in benchmarks.values())
        return max(
            min(prompt + sampling.max_new_tokens, sampling.context or self.model.context)
            for sampling in self.samplings.values()
        )


@dataclass(frozen=True)
class Measured:
    """What came of a candidate."""

    results: dict[str, list[Judgements]]
    """By name of the sampling, in the order of the benchmarks; empty after an error."""
    seconds: float = 0.0
    """From the swap to the last verdict; 0 when everything was in the store."""
    swap_seconds: float = 0.0
    error: str | None = None


def read_candidate(
    name: str,
    evaluation: EvaluationSpec,
    benchmarks: Benchmarks,
    max_model_len: int | None,
    directory: Path,
    dtype: str = "float32",
) -> Candidate:
    """Finds and checks a checkpoint: ``embedded``, a directory (a relative one starts at `directory`), or a Hugging
    Face id, ``ID`` or ``ID@REVISION``.

    Args:
        max_model_len: tokens after which prompt and completion are cut off; by default where the model's context ends.
        dtype: what engines compute in, ``float32`` or ``bfloat16``.

    Raises:
        SpecError: there is no such model, it will not load, it has not the template, or a prompt has no room.
    """
    path, _, revision = (name, "", "") if (directory / name).is_dir() else name.partition("@")
    try:
        spec = schema.validate(ModelSpec, {"path": path, "revision": revision or None})
    except ValidationError as error:
        [(_, message), *_] = schema.messages(error, ModelSpec, {"path": path})
        raise SpecError(message) from error
    model = inspect_model(resolve_model(spec, directory), path)
    if revision and model.directory in (EMBEDDED, directory / path):
        raise SpecError(f"a model of the hub has revisions, but {path!r} is a local directory")
    context = max_model_len or model.context
    if context > model.context:
        raise SpecError(f"pool.max_model_len is {context}, but the model's context is {model.context} tokens")
    tokenizer = read_tokenizer(model.directory, model.trusted)
    prompts = Prompts(tokenizer, choose_template(evaluation.template, path, model.directory))
    for benchmark in benchmarks.values():
        check_lengths(benchmark, prompts, context)
    at = {sampling: evaluation.sampling_at(sampling, 0, 0) for sampling in evaluation.samplings}
    return Candidate(name, model, prompts, {key: in_context(sampling, context, dtype) for key, sampling in at.items()})


def stored(
    candidate: Candidate, benchmarks: Benchmarks, store: EvaluationStore, graders: GraderPool
) -> Measured | None:
    """What is known of a candidate without an engine; None where something must be generated."""
    asked = list(candidate.keys(benchmarks))
    if not all(store.knows(key, benchmark) for _, benchmark, key in asked):
        return None
    results: dict[str, list[Judgements]] = {}
    try:
        for name, benchmark, key in asked:
            judged = store.load_or_regrade(key, benchmark, graders)
            if judged is None:
                return None
            results.setdefault(name, []).append(judged)
    except CorruptEntry as error:
        return Measured({}, error=str(error))
    return Measured(results)


def canary_of(candidate: Candidate, benchmarks: Benchmarks, storage: Path) -> Canary:
    """The canary in the checkpoint's directory; else one made from its weights by transformers in float32, on the first
    questions, and kept in ``<storage>/canaries/``.

    Raises:
        SpecError: the canary that is there cannot be read.
    """
    from dft_sweeps.training.checkpoint import CANARY_FILE

    own = candidate.model.directory / CANARY_FILE
    kept = storage / "canaries" / f"{candidate.model.weights_digest}.json"
    if own.is_file():
        return _read_canary(own)
    if not kept.is_file():
        questions = next(iter(benchmarks.values())).questions[:_CANARY_PROMPTS]
        prompts = [candidate.prompts.ids(question.prompt_text) for question in questions]
        _make_canary(candidate.model, prompts, kept)
    return _read_canary(kept)


def _read_canary(path: Path) -> Canary:
    try:
        return Canary.load(path)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{path}: not a canary that an engine can be compared with ({error}); delete it") from error


def _make_canary(model: ModelFiles, prompts: Sequence[tuple[int, ...]], path: Path) -> None:
    from dft_sweeps.training.checkpoint import make_canary
    from dft_sweeps.training.policy import load_policy

    try:
        policy = load_policy(model.directory, trusted=model.trusted)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SpecError(f"{model.directory}: transformers does not load it: {reason}") from error
    canary = make_canary(policy, [Sample(prompt, 1) for prompt in prompts])
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    canary.save(partial)
    partial.rename(path)


def measure(
    candidates: Mapping[int, Candidate],
    canaries: Mapping[int, Canary],
    benchmarks: Benchmarks,
    store: EvaluationStore,
    pool: EnginePool,
    graders: GraderPool,
    say: Say,
) -> dict[int, Measured]:
    """Evaluates candidates that share an architecture on one pool, by swapping. Those that fail have an error; what is
    in the store already is not generated again.

    Args:
        candidates: by number, from 1: they stand for steps, and step 0 is a sweep's base model.
    """
    assert 0 not in candidates
    from dft_sweeps.orchestration.evaluations import Evaluations

    alike: dict[str, dict[int, Candidate]] = {}
    for number, candidate in candidates.items():
        alike.setdefault(candidate.prompts.full_digest, {})[number] = candidate
    found: dict[int, Measured] = {}
    for group in alike.values():
        prompts = next(iter(group.values())).prompts
        evaluations = Evaluations(benchmarks, prompts, store, pool, graders)
        try:
            for number, candidate in group.items():
                _submit(evaluations, number, candidate, canaries[number])
            found |= dict(_landed(evaluations, group, say))
        finally:
            evaluations.close()
    return found


def _submit(evaluations: Evaluations, number: int, candidate: Candidate, canary: Canary) -> None:
    from dft_sweeps.orchestration.mailbox import Checkpoint

    model = candidate.model
    checkpoint = Checkpoint(number, str(model.directory), model.weights_digest, canary)
    evaluations.submit(candidate.name, checkpoint, candidate.samplings)


def _landed(evaluations: Evaluations, group: Mapping[int, Candidate], say: Say) -> Iterator[tuple[int, Measured]]:
    """Every candidate's outcome, as they come."""
    from dft_sweeps.orchestration.evaluations import AttemptFailed

    left, silent = set(group), 0.0
    while left:
        try:
            landed = evaluations.landed.get(timeout=SILENCE_S)
        except queue.Empty:
            silent += SILENCE_S
            names = ", ".join(group[number].name for number in sorted(left))
            say(f"still at work on {names}; the last news came {silent:.0f} s ago")
            continue
        silent = 0.0
        if isinstance(landed, AttemptFailed):
            say(_with_names(landed.message, group))
            continue
        left.remove(landed.step)
        say(f"{landed.training_id}: {_in_words(landed)}")
        yield landed.step, Measured(landed.results, landed.seconds, landed.swap_seconds, landed.error)


def _with_names(message: str, group: Mapping[int, Candidate]) -> str:
    for number, candidate in group.items():
        message = message.replace(f"step {number}: ", f"{candidate.name}: ")
    return message


def _in_words(landed: Evaluated) -> str:
    if landed.error:
        return f"failed: {landed.error}"
    if not landed.seconds:
        return "found in the store"
    completions = sum(
        len(question.samples)
        for results in landed.results.values()
        for judged in results
        for question in next(iter(judged.values())).questions
    )
    return f"{completions:,} completions graded, {landed.seconds:.1f} s (swap {landed.swap_seconds:.2f} s)"
