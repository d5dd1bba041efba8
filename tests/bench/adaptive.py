"""The row `adaptive_tokens_to_verdict`: "DFT above SFT" by adaptive sampling, over 16 samples of every question.

Two policies are trained as `sweep_specs/quickstart.yaml` says, on demonstrations of which one in ten has a wrong step,
and sampled through the pool; `verdicts` replays the comparison many times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.generation import ENGINE
from tests.bench.policies import Saved, prompts_of, trained
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, SideProcess
from tests.bench.throughput import say
from tests.bench.verdicts import FIXED, Replay, Sampled, null_replays, replays, summary

QUICKSTART = Path(__file__).parents[2] / "sweep_specs" / "quickstart.yaml"
BENCHMARKS = ("arithmetic_1", "arithmetic_2", "arithmetic_3")
LEARNING_RATE = 1e-3
GENERATED = 64
"""Samples of every question, from which replays draw 16."""
REPLAYS = 1000


def rows(machine: Machine) -> Iterator[Row]:
    from importlib.util import find_spec

    draft = {
        "name": "adaptive_tokens_to_verdict",
        "peer_name": f"{FIXED} samples of every question",
        "unit": "tokens",
        "detail": f"the shipped base after quickstart's 60 steps of DFT and of SFT, {LEARNING_RATE:g}, 10% wrong steps",
    }
    if find_spec("vllm") is None:
        yield Row(**draft, not_run="vLLM is not installed (pip install 'dft-sweeps[cpu]')")
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            found = sampled(Path(directory), machine)
        except SideEnded as error:
            yield Row(**draft, not_run=str(error))
            return
    yield row_of(draft, found, 50 if machine.quick else REPLAYS)


def sampled(directory: Path, machine: Machine) -> dict[str, dict[str, Sampled]]:
    """Verdicts and tokens of many samples: by policy and benchmark."""
    policies = {kind: train(kind, directory, machine) for kind in ("dft", "sft")}
    samples = FIXED * 2 if machine.quick else GENERATED
    sampling = {"samples": samples, "max_new_tokens": 112, "seed": 1}
    found = {}
    with SideProcess("pool_side", directory, machine.threads) as side:
        stops = list(prompts_of(policies["sft"].directory).stop_token_ids)
        engine = ENGINE | {
            "stop_token_ids": stops,
            "max_model_len": 256,
            "max_num_seqs": 256,
            "threads": machine.threads,
        }
        side.ask("start", model=policies["sft"].directory, engine=engine)
        for kind, policy in policies.items():
            names = [{"name": name} for name in BENCHMARKS]
            tables = side.ask("verdicts", checkpoint=asdict(policy), benchmarks=names, sampling=sampling)
            found[kind] = {name: table_of(table) for name, table in zip(BENCHMARKS, tables, strict=True)}
            say(f"{kind}: {samples} samples of every question, accuracy {accuracies(found[kind])}")
    return found


def table_of(table: list[list[list[Any]]]) -> Sampled:
    """From [questions][samples] pairs of a verdict and its tokens."""
    pairs = np.array(table, dtype=np.int64)
    return Sampled(pairs[..., 0].astype(bool), pairs[..., 1])


def train(kind: str, directory: Path, machine: Machine) -> Saved:
    """Trains the shipped base by quickstart's recipe."""
    from dft_sweeps.spec.load import load_sweep

    sweep = load_sweep(QUICKSTART)
    [spec] = [
        trial.spec
        for trial in sweep.trials
        if trial.axes["variant"] == "noisy"
        and trial.spec.train.objective.kind == kind
        and trial.spec.train.learning_rate == LEARNING_RATE
    ]
    return trained(spec, sweep.spec.execution, directory / kind, machine.threads)


def row_of(draft: dict[str, str], found: Mapping[str, Mapping[str, Sampled]], times: int) -> Row:
    """Tokens until there is a verdict on each of the three benchmarks, means of the replays."""
    played = {
        name: replays(found["dft"][name], found["sft"][name], times, seed=index)
        for index, name in enumerate(BENCHMARKS)
    }
    everything = {kind: joined(tables) for kind, tables in found.items()}
    average = summary({"average": replays(everything["dft"], everything["sft"], times, seed=10)})
    each = summary(played)
    null = [
        verdict
        for index, name in enumerate(BENCHMARKS)
        for verdict in null_replays(found["sft"][name], times, seed=20 + index)
    ]
    low, high = each["ratios"]
    shares = "; ".join(f"{name} {each['by_list'][name]:.2f} ({said(each['verdicts'][name])})" for name in BENCHMARKS)
    detail = (
        f"{draft['detail']}; accuracies: DFT {accuracies(found['dft'])}, SFT {accuracies(found['sft'])}; one verdict "
        f"on each of {len(BENCHMARKS)} benchmarks of 50 questions, means of {times} replays, each with other {FIXED} "
        f"of {found['sft'][BENCHMARKS[0]].right.shape[1]} samples of a question; 95% of the replays take {low:.2f} to "
        f"{high:.2f} of the tokens; by benchmark: {shares}; as with all {FIXED}: {each['same']:.1%} of the verdicts, "
        f"the opposite: {each['opposite']}; one verdict on all 150 questions together: ratio "
        f"{average['tokens'] / average['fixed_tokens']:.3f}, as with all {FIXED} {average['same']:.1%}; SFT against "
        f"itself with other seeds: {errors(null)}"
    )
    return Row(**draft | {"detail": detail}, ours=each["tokens"], peer=each["fixed_tokens"])


def joined(tables: Mapping[str, Sampled]) -> Sampled:
    """All benchmarks' questions as one list: they are equally many, so its accuracy is the average."""
    return Sampled(*(np.concatenate([getattr(each, name) for each in tables.values()]) for name in ("right", "tokens")))


def errors(null: list[Replay]) -> str:
    """Share of wrong verdicts where there is no difference, with its 95% interval (Clopper-Pearson)."""
    from scipy.stats import binomtest

    wrong = sum(each.verdict is not None for each in null)
    interval = binomtest(wrong, len(null)).proportion_ci(0.95)
    return f"{wrong} wrong verdicts in {len(null)}, {wrong / len(null):.1%} ({interval.low:.1%} to {interval.high:.1%})"


def accuracies(tables: Mapping[str, Sampled]) -> str:
    return " / ".join(f"{table.right.mean():.1%}" for table in tables.values())


def said(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{verdict} {share:.0%}" for verdict, share in shares.items())
