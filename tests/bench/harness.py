"""The rows `evaluation_vs_lm_eval`: one more checkpoint evaluated by the product, and by lm-eval-harness with vLLM.

Both ask the same token ids under the same sampling and engine settings. The harness cannot change its engine's weights,
so for one more checkpoint it starts anew, as its users start it; the pool is warm and swaps. Rows `_without_starts`
leave out the start there and lease and swap here.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import generation
from tests.bench.policies import Saved, checkpoints, prompts_of, trained
from tests.bench.questions import GSM8K_TEST, benchmark_of, sampling_of, write_task
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, SideProcess
from tests.bench.throughput import say
from tests.bench.workload import SHIPPED

RUNS = 3
STEPS = 60
SAMPLES = 4
LEVEL = 0.99
"""Of the interval of the difference of accuracies, which must hold 0."""
_GSM8K = {"name": "gsm8k", "path": str(GSM8K_TEST)}


@dataclass(frozen=True)
class Case:
    """Questions that both sides are asked."""

    suffix: str
    description: str
    benchmarks: tuple[dict[str, Any], ...]
    max_new_tokens: int
    runs: int = RUNS
    steps: int = 0
    """Of training on GSM8K before."""

    @property
    def sampling(self) -> dict[str, Any]:
        return {"samples": SAMPLES, "temperature": 1.0, "max_new_tokens": self.max_new_tokens, "seed": 1}


def cases(machine: Machine) -> list[Case]:
    """The base ends most answers to GSM8K at once; trained on it, it writes at length, and as rarely right."""
    limit, runs, steps = (20, 1, 10) if machine.quick else (200, RUNS, STEPS)
    arithmetic = tuple({"name": f"arithmetic_{level}"} for level in (1, 2, 3))
    some, all_ = f"{limit} questions of GSM8K's test split", "all 1,319 questions of GSM8K's test split"
    limited = (_GSM8K | {"limit": limit},)
    taught = f" after {steps} steps of SFT on GSM8K"
    found = [
        Case("", f": {some}", limited, 256, runs),
        Case("_trained", f"{taught}: {some}", limited, 256, runs, steps),
        Case("_arithmetic", ": the 150 embedded questions", arithmetic, 112, runs),
    ]
    if machine.full:
        found.append(Case("_full", f": {all_}", (_GSM8K,), 256, 1))
        found.append(Case("_trained_full", f"{taught}: {all_}", (_GSM8K,), 256, 1, steps))
    return found


def rows(machine: Machine) -> Iterator[Row]:
    for case in cases(machine):
        drafts = {
            what: {
                "name": f"evaluation_vs_lm_eval{case.suffix}{what}",
                "peer_name": f"lm-eval-harness {harness_version()} with its vLLM backend",
                "unit": "questions/s",
                "detail": f"{SHIPPED.description}{case.description} x {SAMPLES} samples",
            }
            for what in ("", "_without_starts")
        }
        if reason := missing():
            yield from (Row(**draft, not_run=reason) for draft in drafts.values())
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                found = measure(case, Path(directory), machine)
            except SideEnded as error:
                yield from (Row(**draft, not_run=str(error)) for draft in drafts.values())
                continue
        for what, draft in drafts.items():
            yield row_of(draft, "without_start" if what else "seconds", found, machine)


def missing() -> str | None:
    """Why these rows cannot be measured here."""
    if find_spec("lm_eval") is None:
        return "lm-eval is not installed (pip install 'dft-sweeps[lm-eval]')"
    if not GSM8K_TEST.is_file():
        return "GSM8K's test file is not in ../shared/data/benchmarks"
    return generation.missing()


def harness_version() -> str:
    return version("lm_eval") if find_spec("lm_eval") else "(not installed)"


def measure(case: Case, directory: Path, machine: Machine) -> dict[str, list[dict[str, Any]]]:
    """What each run of each side found; the sides take turns, and only one is up at a time."""
    base, other = checkpoints(SHIPPED, directory, count=2)
    if case.steps:
        base = taught(case.steps, directory, machine.threads)
    stops = list(prompts_of(base.directory).stop_token_ids)
    engine = generation.ENGINE | {"stop_token_ids": stops, "max_num_seqs": 256, "threads": machine.threads}
    tasks = directory / "tasks"
    tasks.mkdir()
    sampling = sampling_of(case.sampling)
    names = [write_task(benchmark_of(fields), sampling, tasks) for fields in case.benchmarks]
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for turn in range(case.runs):
        store = str(directory / f"store-{turn}")
        found["ours"].append(ours_once(case, base, other, engine, store, directory))
        found["theirs"].append(theirs_once(names, tasks, base, engine, directory))
        ours, theirs = (each[-1]["seconds"] for each in found.values())
        say(f"run {turn + 1} of {case.runs}: ours {ours:.1f} s, lm-eval-harness {theirs:.1f} s")
    return found


def taught(steps: int, directory: Path, threads: int) -> Saved:
    """The base trained on GSM8K's solutions, their answers in boxes, under the benchmark's prompts."""
    from dft_sweeps.evaluation.benchmarks import prompt_suffix
    from dft_sweeps.spec.models import ExecutionSpec, TrialSpec
    from tests.bench.workload import gsm8k

    file = directory / "solutions.jsonl"
    rows = [(row.prompt, row.completion.rpartition("####")) for row in gsm8k()]
    file.write_text(
        "".join(
            json.dumps({"prompt": prompt, "completion": f"{text}\\boxed{{{answer.strip()}}}"}) + "\n"
            for prompt, (text, _, answer) in rows
        )
    )
    source = {"kind": "file", "path": str(file), "prompt": "prompt", "completion": "completion"}
    data = {"source": source, "samples": 32 * steps, "instruction": prompt_suffix("gsm8k"), "max_length": 1024}
    train = {"objective": {"kind": "sft"}, "learning_rate": 1e-3, "batch_size": 32, "steps": steps}
    evaluation = {"benchmarks": ["arithmetic_1"], "samplings": {"sampled": {"samples": 1}}}
    spec = TrialSpec.model_validate({"data": data, "train": train, "evaluation": evaluation})
    return trained(spec, ExecutionSpec(micro_batch_tokens=4096, pack_length=1024), directory / "taught", threads)


def ours_once(
    case: Case, base: Saved, other: Saved, engine: Mapping[str, Any], store: str, directory: Path
) -> dict[str, Any]:
    with SideProcess("pool_side", directory, engine["threads"]) as side:
        side.ask("start", model=base.directory, engine=engine)
        up = time.perf_counter() - side.started
        known = {"other": asdict(other), "checkpoint": asdict(base), "store": store}
        found: dict[str, Any] = side.ask("evaluate", **known, benchmarks=case.benchmarks, sampling=case.sampling)
    return found | {"start": up}


def theirs_once(
    tasks: Sequence[str], folder: Path, base: Saved, engine: Mapping[str, Any], directory: Path
) -> dict[str, Any]:
    with SideProcess("lm_eval_side", directory, engine["threads"]) as side:
        told = side.ask("start", model=base.directory, engine=engine)
        up = time.perf_counter() - side.started
        found: dict[str, Any] = side.ask("evaluate", tasks=tasks, directory=str(folder))
        everything = time.perf_counter() - side.started
    return found | {"seconds": everything, "without_start": found["seconds"], "start": up, "told": told}


def row_of(draft: dict[str, str], what: str, found: Mapping[str, list[dict[str, Any]]], machine: Machine) -> Row:
    """Questions per second by the median run, unless the sides asked other prompts or disagree on the accuracy."""
    ours, theirs = found["ours"][0], found["theirs"][0]
    if ours["prompts"] != theirs["prompts"]:
        return Row(**draft, not_run="invalid, the sides do not ask the same token ids")
    difference, low, high = accuracy_difference(ours["right"], theirs["right"])
    accuracies = f"accuracy {share(ours['right']):.2%} and {share(theirs['right']):.2%}"
    if not low <= 0 <= high:
        return Row(**draft, not_run=f"invalid, {accuracies}, differ by more than chance")
    told = ", ".join(f"{name}={value}" for name, value in theirs["told"].items())
    detail = (
        f"{draft['detail']}; the same token ids, temperature 1, {ours['tokens']:,} and {theirs['tokens']:,} tokens "
        f"sampled; float32, {machine.threads} threads; {accuracies}, difference {100 * difference:.1f} points "
        f"({100 * low:.1f} to {100 * high:.1f} at {LEVEL:.0%}, for these questions); medians of {len(found['ours'])} "
        f"runs in turns; ours: {seconds(found['ours'])}, of which "
        f"{median(each['grading'] for each in found['ours']):.1f} s after the last token, both graders, each "
        f"token's log-probability kept, all stored; theirs: {seconds(found['theirs'])}, no log-probabilities, "
        f"no seeds, told {told}"
    )
    rates = [len(ours["right"]) / median(each[what] for each in found[side]) for side in ("ours", "theirs")]
    return Row(**draft | {"detail": detail}, ours=rates[0], peer=rates[1])


def seconds(runs: Sequence[Mapping[str, Any]]) -> str:
    whole, bare, start = (median(each[what] for each in runs) for what in ("seconds", "without_start", "start"))
    return f"{whole:.1f} s for one more checkpoint, {bare:.1f} s without starts, {start:.1f} s from nothing to ready"


def share(right: Sequence[Sequence[bool]]) -> float:
    return sum(map(sum, right)) / sum(map(len, right))


def accuracy_difference(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> tuple[float, float, float]:
    """Ours minus theirs and its interval for these questions: what other samples could give."""
    from dft_sweeps.evaluation.paired import compare

    found = compare(ours, theirs, level=LEVEL, kind="fixed_list")
    return found.difference, found.low, found.high
