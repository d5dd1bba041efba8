"""Our side of evaluation rows: a Ray cluster of its own, pools of engines on it, and what the product does with them.

Started by `SideProcess`; commands are the methods of `PoolSide`. Times are those that the pool's caller sees.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.policies import Saved, fingerprint, prompts_of, read_requests
from tests.bench.side_process import serve, standard_streams

if TYPE_CHECKING:
    from dft_sweeps.evaluation.benchmarks import Benchmark
    from dft_sweeps.evaluation.generator import Completion, Request
    from dft_sweeps.evaluation.grading import GraderPool
    from dft_sweeps.evaluation.results import Completions, Judgements
    from dft_sweeps.evaluation.store import EvaluationStore
    from dft_sweeps.spec.models import SamplingSpec
    from services.lease import Engine
    from services.pool import Pool


class PoolSide:
    """The pools by name, all on one cluster, until the process ends."""

    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}

    def start(self, model: str, engine: dict[str, Any], name: str = "one", replicas: int = 1) -> dict[str, float]:
        """Starts a pool; `engine` are fields of EngineSettings."""
        from services.engine_settings import EngineSettings
        from services.pool import PoolSettings, start_pool

        before = time.perf_counter()
        stops = tuple(engine["stop_token_ids"])
        settings = EngineSettings(**engine | {"stop_token_ids": stops})
        # A small share of a CPU each: a cluster of two CPUs must hold all pools, of which one works at a time.
        self.pools[name] = start_pool(PoolSettings(settings, replicas, num_cpus=0.1, name=name), model)
        return {"seconds": time.perf_counter() - before}

    def generate(
        self, checkpoint: dict[str, str], requests: str, warm_up: str, name: str = "one"
    ) -> dict[str, float | int | str]:
        """Seconds, tokens and their hash of one call to every engine of a pool, each with its share of the requests."""
        asked, first, pool = read_requests(requests), read_requests(warm_up), self.pools[name]
        with ExitStack() as stack:
            engines = [stack.enter_context(pool.lease()) for _ in range(pool.replicas)]
            for engine in engines:
                swap(engine, Saved(**checkpoint))
                engine.generate(first)
            before = time.perf_counter()
            completions = generate_on_all(engines, asked)
            seconds = time.perf_counter() - before
        found = fingerprint([each.token_ids for each in of_request] for of_request in completions)
        return {"seconds": seconds, **found}

    def swap(self, checkpoints: list[dict[str, str]], times: int, first: str, name: str = "one") -> dict[str, Any]:
        """Seconds by swap, to one checkpoint after the other: of the swap, and from before the lease to one token."""
        [request], pool = read_requests(first), self.pools[name]
        known = [Saved(**checkpoint) for checkpoint in checkpoints]
        swaps, tokens, differences = [], [], []
        for turn in range(times + 1):
            checkpoint = known[turn % len(known)]
            canary = checkpoint.canary  # the trainer sends it along
            before = time.perf_counter()
            with pool.lease() as engine:
                leased = time.perf_counter()
                report = engine.swap(checkpoint.directory, checkpoint.digest, canary)
                swapped = time.perf_counter()
                [[completion]] = engine.generate([request])
                after = time.perf_counter()
            assert len(completion.token_ids) == 1
            if turn:  # the first swap finds cold files and pages
                assert report.seconds > 0
                swaps.append(swapped - leased)
                tokens.append(after - before)
                differences.append(report.canary_max_difference)
        return {"swap": swaps, "first_token": tokens, "canary": max(differences)}

    def evaluate(
        self,
        other: dict[str, str],
        checkpoint: dict[str, str],
        benchmarks: list[dict[str, Any]],
        sampling: dict[str, Any],
        store: str,
        name: str = "one",
    ) -> dict[str, Any]:
        """One more checkpoint as the product evaluates it: lease, swap, generate, store, grade by all graders, store.

        `other` is evaluated before, with one sample, so that the engine must swap and graders are up. `right` are
        verdicts by the peer's rule, by question and sample over all benchmarks.
        """
        from dft_sweeps.evaluation.evaluate import generate_all
        from dft_sweeps.evaluation.grading import GraderPool
        from dft_sweeps.evaluation.store import EvaluationStore
        from tests.bench.questions import benchmark_of, boxed_right, sampling_of

        asked = [(benchmark_of(benchmark), sampling_of(sampling)) for benchmark in benchmarks]
        prompts, pool, wanted = prompts_of(checkpoint["directory"]), self.pools[name], Saved(**checkpoint)
        kept = EvaluationStore(Path(store))
        with GraderPool(workers=1) as graders:
            once = [(benchmark, how.model_copy(update={"samples": 1})) for benchmark, how in asked]
            with pool.lease() as engine:
                swap(engine, Saved(**other))
                keep_and_grade(kept, generate_all(engine, once, prompts), once, graders)
            before = time.perf_counter()
            with pool.lease() as engine:
                swap(engine, wanted)
                swapped = time.perf_counter()
                completions = generate_all(engine, asked, prompts)
            generated = time.perf_counter()
            judged = keep_and_grade(kept, completions, asked, graders)
            after = time.perf_counter()
        assert len(judged) == len(asked)
        return {
            "seconds": after - before,
            "without_start": after - swapped,
            "grading": after - generated,
            "tokens": sum(len(row.token_ids) for each in completions for row in each.rows),
            "right": [
                [boxed_right(row.text, question.answer) for row in each.rows if row.question_id == question.id]
                for each, (benchmark, _) in zip(completions, asked, strict=True)
                for question in benchmark.questions
            ],
            "prompts": [
                prompts.ids(question.prompt_text) for benchmark, _ in asked for question in benchmark.questions
            ],
        }

    def verdicts(
        self, checkpoint: dict[str, str], benchmarks: list[dict[str, Any]], sampling: dict[str, Any], name: str = "one"
    ) -> list[list[list[tuple[bool, int]]]]:
        """Verdict and tokens of every completion, by benchmark, question and sample."""
        from dft_sweeps.evaluation.evaluate import evaluate
        from dft_sweeps.evaluation.grading import GraderPool
        from tests.bench.questions import benchmark_of, sampling_of

        prompts, how = prompts_of(checkpoint["directory"]), sampling_of(sampling)
        with self.pools[name].lease() as engine, GraderPool() as graders:
            swap(engine, Saved(**checkpoint))
            results = [evaluate(engine, benchmark_of(each), how, prompts, graders) for each in benchmarks]
        return [
            [
                [(bool(sample.verdict.correct), sample.tokens) for sample in question.samples]
                for question in result.questions
            ]
            for result in results
        ]


def keep_and_grade(
    store: EvaluationStore,
    completions: Sequence[Completions],
    asked: Sequence[tuple[Benchmark, SamplingSpec]],
    graders: GraderPool,
) -> list[Judgements]:
    """Stores completions, and their verdicts by every grader of their benchmark."""
    for each in completions:
        store.save_completions(each)
    judged = [
        store.load_or_regrade(each.key, benchmark, graders)
        for each, (benchmark, _) in zip(completions, asked, strict=True)
    ]
    return [each for each in judged if each is not None]


def swap(engine: Engine, checkpoint: Saved) -> None:
    engine.swap(checkpoint.directory, checkpoint.digest, checkpoint.canary)


def generate_on_all(engines: Sequence[Engine], requests: Sequence[Request]) -> list[list[Completion]]:
    """Every n-th request on each of n engines, all at once; answers in the order of the requests."""
    answers: list[list[Completion]] = [[] for _ in requests]

    def work(index: int) -> None:
        answers[index :: len(engines)] = engines[index].generate(requests[index :: len(engines)])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(1, len(engines))]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()
    assert all(answers), "an engine failed"
    return answers


def main() -> None:
    asked, answers = standard_streams()
    from dft_sweeps.orchestration.cluster import cluster, set_environment

    set_environment(None)
    side = PoolSide()
    commands = {name: getattr(side, name) for name in ("start", "generate", "swap", "evaluate", "verdicts")}
    with cluster(None):
        serve(commands, asked, answers)


if __name__ == "__main__":
    main()
