"""`dft-sweeps evaluate`: accuracies of checkpoints on their own, without a sweep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from uuid import uuid4

import click

from dft_sweeps.cli.options import json_option, storage_option, writable_storage
from dft_sweeps.spec.data_models import TemplateName

if TYPE_CHECKING:
    from dft_sweeps.evaluation.benchmarks import Benchmark
    from dft_sweeps.evaluation.store import EvaluationStore
    from dft_sweeps.orchestration.standalone import Candidate, Measured
    from dft_sweeps.spec.models import PoolSpec
    from dft_sweeps.spec.plan import ClusterFacts
    from services.pool import Pool

Say = Callable[[str, str], None]

_LEAST_CONTEXT = 256
"""Tokens that engines take at least, where the model does: the canary must fit, however short answers are."""


@click.command()
@click.argument("checkpoints", metavar="CHECKPOINT|HUB_ID...", nargs=-1, required=True)
@click.option(
    "--benchmarks",
    multiple=True,
    required=True,
    metavar="NAME[=FILE],...",
    help="What to measure, e.g. gsm8k,math500; NAME=FILE reads the questions from a local file. May be repeated.",
)
@click.option("--limit", type=int, help="Ask only the first so many questions of each benchmark.")
@click.option("--samples", type=int, default=16, show_default=True, help="Completions per question.")
@click.option("--temperature", type=float, default=1.0, show_default=True)
@click.option("--top-p", type=float, default=1.0, show_default=True)
@click.option("--max-new-tokens", type=int, default=4096, show_default=True, help="Longest completion.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--greedy/--no-greedy", default=True, show_default=True, help="One greedy completion more, in a table of its own."
)
@click.option(
    "--adaptive",
    type=float,
    metavar="POINTS",
    help="Draw samples, --samples at most, only until an accuracy's 95% interval for the fixed list of questions "
    "reaches no further than so many percentage points to either side.",
)
@click.option(
    "--template",
    type=click.Choice(get_args(TemplateName)),
    default="auto",
    show_default=True,
    help="How questions are written: by the tokenizer's chat template, or as the published harness writes them for a "
    "family of models; auto chooses by the checkpoint's own record, then by the hub id.",
)
@click.option("--replicas", type=int, default=1, show_default=True, help="Engines.")
@click.option("--cpus-per-engine", type=int, default=1, show_default=True)
@click.option(
    "--gpus-per-engine",
    type=int,
    default=0,
    show_default=True,
    help="0 for engines on CPUs; several share an engine's layers.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="What engines compute in.",
)
@click.option(
    "--max-model-len",
    type=int,
    help="Longest prompt plus completion, in tokens. [default: as long as asked for, within the model's context]",
)
@click.option("--address", help="Ray cluster to run on, e.g. auto. [default: one started here for this command]")
@storage_option
@json_option
def command(checkpoints: tuple[str, ...], storage: Path, address: str | None, as_json: bool, **options: Any) -> int:
    """Evaluate checkpoints on their own: generate, grade with every grader, print accuracies with intervals.

    A checkpoint is a directory that transformers reads (one that a sweep wrote, or any model's), a Hugging Face id
    (ID or ID@REVISION), or `embedded`, the base model shipped with this package. Several are evaluated one after the
    other on the same warm engines, which swap weights; they must share one architecture.

    The defaults are the published protocol: 16 samples at temperature 1 and one greedy completion, up to 4,096 new
    tokens. A completion also ends where the model's context does.

    Every completion and verdict is kept in --storage, and what is there is not generated again, whether this command
    or a sweep asked for it first: the same command once more only prints.

    \b
    Tables have, by benchmark and grader, in percent unless it says otherwise:
      accuracy             mean over questions of the mean over samples; `paper` averages as its harness does
      new questions        its 95% interval for other questions like these
      fixed list           its 95% interval for other samples on these questions: compare published numbers with it
      pass@k, majority@k   questions with a right sample, and with a right commonest answer, of all k samples

    \b
    Examples:
      dft-sweeps evaluate embedded --benchmarks arithmetic_1,arithmetic_2 --max-new-tokens 96
      dft-sweeps evaluate Qwen/Qwen2.5-Math-1.5B storage/trials/t-*/step-000200 --benchmarks gsm8k,math500 \\
        --limit 200 --gpus-per-engine 1 --dtype bfloat16 --json > accuracies.json

    \b
    Exit codes: 0 done; 1 a checkpoint could not be evaluated, the others were; 2 something given is wrong;
    3 the cluster or the engines do not start; 130 interrupted.
    """
    from transformers.utils.logging import disable_progress_bar

    from dft_sweeps.cli.evaluate_options import evaluation_spec, pool_spec, read_benchmarks, read_candidates
    from dft_sweeps.cli.evaluate_printing import print_measured, print_measured_json
    from dft_sweeps.evaluation.grading import GraderPool
    from dft_sweeps.evaluation.store import EvaluationStore
    from dft_sweeps.orchestration.standalone import stored

    disable_progress_bar()
    say = _teller()
    evaluation, pool = evaluation_spec(options), pool_spec(options)
    say("prepare", "reading benchmarks and checkpoints")
    benchmarks = read_benchmarks(evaluation)
    candidates = read_candidates(checkpoints, evaluation, benchmarks, options["max_model_len"], pool.dtype)
    store = EvaluationStore(writable_storage(storage))
    numbered = dict(enumerate(candidates, start=1))
    with GraderPool() as graders:
        known = {number: stored(each, benchmarks, store, graders) for number, each in numbered.items()}
    found = {number: measured for number, measured in known.items() if measured is not None}
    if found:
        say("prepare", f"{len(found)} of {len(candidates)} checkpoints were evaluated before")
    missing = {number: each for number, each in numbered.items() if number not in found}
    if missing:
        found |= _generated(missing, benchmarks, store, pool, options["max_model_len"], address, say)
    outcomes = [(candidate, found[number]) for number, candidate in numbered.items()]
    if as_json:
        print_measured_json(outcomes, benchmarks, store.root)
    else:
        print_measured(outcomes, store.root)
    for candidate, measured in outcomes:
        if measured.error:
            click.echo(f"error: {candidate.name}: {measured.error}", err=True)
    return 1 if any(measured.error for _, measured in outcomes) else 0


def _teller() -> Say:
    """Progress goes to standard error, so that tables and JSON can be piped."""
    started = time.monotonic()

    def say(topic: str, message: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {topic:<9}{message}", err=True)

    return say


def _generated(
    missing: dict[int, Candidate],
    benchmarks: dict[str, Benchmark],
    store: EvaluationStore,
    pool: PoolSpec,
    max_model_len: int | None,
    address: str | None,
    say: Say,
) -> dict[int, Measured]:
    """Evaluates on engines what the store lacks. The first candidate settles what the engines hold."""
    from dft_sweeps.cli.gather import this_machine
    from dft_sweeps.evaluation.grading import GraderPool
    from dft_sweeps.orchestration.cluster import set_environment
    from dft_sweeps.orchestration.standalone import Measured, canary_of, measure

    first = next(iter(missing.values()))
    refused = {number: words for number, each in missing.items() if (words := _misfit(first, each))}
    fitting = {number: each for number, each in missing.items() if number not in refused}
    if address is None:
        _check_room(pool, this_machine())  # before anything starts
    say("prepare", _amount(fitting, benchmarks))
    canaries = {number: canary_of(each, benchmarks, store.root) for number, each in fitting.items()}
    if max_model_len is None:
        longest = max(each.longest(benchmarks) for each in fitting.values())
        max_model_len = min(max(longest, _LEAST_CONTEXT), first.model.context)
    set_environment(address)
    pool = pool.model_copy(update={"max_model_len": max_model_len})
    # Graders end before the cluster does: it ends every process that was started meanwhile.
    with _engines(pool, first, address, say) as engines, GraderPool(min(4, len(os.sched_getaffinity(0)))) as graders:
        found = measure(fitting, canaries, benchmarks, store, engines, graders, lambda line: say("evaluate", line))
    return found | {number: Measured({}, error=words) for number, words in refused.items()}


def _misfit(first: Candidate, candidate: Candidate) -> str | None:
    """Why engines that hold the first candidate cannot take another one."""
    from dft_sweeps.cli.engines import stop_tokens
    from services.weights_directory import read_layout, require_same_layout

    alone = f"evaluate it by a command of its own; the engines hold {first.name}"
    models = (first.model, candidate.model)
    if first.model.trusted != candidate.model.trusted:
        return f"the code that a model brings is run for one of them alone; {alone}"
    try:
        layouts = [read_layout(model.directory, model.trusted) for model in models]
        require_same_layout(*layouts, candidate.model.directory)
    except ValueError as error:
        return f"{error}; {alone}"
    both = ((each.prompts, each.model) for each in (first, candidate))
    ends, its_ends = (stop_tokens(prompts, model.directory, model.trusted) for prompts, model in both)
    return None if ends == its_ends else f"its answers end at the tokens {its_ends}, not {ends}; {alone}"


def _amount(candidates: dict[int, Candidate], benchmarks: dict[str, Benchmark]) -> str:
    questions = sum(len(benchmark.questions) for benchmark in benchmarks.values())
    samples = sum(sampling.samples for each in candidates.values() for sampling in each.samplings.values())
    many = "1 checkpoint" if len(candidates) == 1 else f"{len(candidates)} checkpoints"
    return f"{many}, {questions:,} questions: up to {questions * samples:,} completions to generate"


def _check_room(pool: PoolSpec, cluster: ClusterFacts) -> None:
    """Refuses engines that the cluster can never hold; they would wait for ever."""
    from dft_sweeps.spec.errors import SpecError

    for kind, has, each in (("CPU", cluster.cpus, pool.cpus_per_engine), ("GPU", cluster.gpus, pool.gpus_per_engine)):
        if pool.replicas * each > has:
            raise SpecError(
                f"too few {kind}s: the cluster has {has:g}, and {pool.replicas} x {each} are asked for",
                f"--{kind.lower()}s-per-engine" if pool.replicas == 1 else "--replicas",
            )


@contextmanager
def _engines(pool: PoolSpec, first: Candidate, address: str | None, say: Say) -> Iterator[Pool]:
    """Ray and the engines, for the block's duration."""
    from dft_sweeps.cli.engines import pool_settings, stop_tokens
    from dft_sweeps.orchestration.cluster import cluster
    from services.pool import start_pool, stop_pool

    say("engines", "starting Ray" if address is None else f"connecting to Ray at {address}")
    with cluster(address) as facts:
        _check_room(pool, facts)
        stops = stop_tokens(first.prompts, first.model.directory, first.model.trusted)
        settings = pool_settings(pool, stops, f"evaluate-{uuid4().hex[:8]}", trusted=first.model.trusted)
        directory = str(first.model.directory)
        try:
            yield start_pool(settings, directory, lambda line: say("engines", line))
        finally:
            if address is not None:  # a cluster of our own takes the pool with it
                stop_pool(settings.name)
            say("engines", "stopping")
