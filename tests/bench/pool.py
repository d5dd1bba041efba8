"""The row `pool_vs_vllm`: the pool against `vllm.LLM.generate`, on the same token ids, seeds, lengths and settings.

Both must give the same tokens back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.bench import generation
from tests.bench.generation import (
    SAMPLES,
    Found,
    Workload,
    disagreement,
    missing,
    rate,
    rates,
    rotated,
)
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, SideProcess
from tests.bench.throughput import say
from tests.bench.workload import SMALL_VOCABULARY

ROUND_S = 70.0
"""Seconds that one round of a side is to take, at least a minute of them certainly."""


def rows(machine: Machine) -> Iterator[Row]:
    """The pool against vLLM in one process."""
    draft = {
        "name": "pool_vs_vllm",
        "peer_name": "vllm.LLM.generate in one process",
        "unit": "tokens/s",
        "detail": f"{SMALL_VOCABULARY.description}; {machine.threads} threads",
    }
    if reason := missing():
        yield Row(**draft, not_run=reason)
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            tokens = generation.QUICK_TOKENS if machine.quick else generation.MAX_NEW_TOKENS
            work = Workload(SMALL_VOCABULARY, Path(directory), machine.threads, tokens)
            yield against_vllm(draft, work, Path(directory), machine)
        except SideEnded as error:
            yield Row(**draft, not_run=str(error))


def against_vllm(draft: dict[str, str], work: Workload, directory: Path, machine: Machine) -> Row:
    """Rounds in which the sides take turns. Our cluster runs in our turns only, for even idle it takes CPU time."""
    found: dict[str, list[Found]] = {"ours": [], "vllm": [], "plain": []}
    with SideProcess("vllm_side", directory, machine.threads) as peer:
        peer.ask("start", model=work.checkpoint.directory, engine=work.engine)

        def run(side: str) -> Found:
            if side == "ours":
                return work.require_length(ours_once(work, directory, machine.threads))
            asked = {"requests": work.requests, "warm_up": work.warm_up}
            return work.require_length(peer.ask("generate", **asked, logprobs=side == "vllm"))

        work.ask(16)
        work.fit(run("vllm"), 5.0 if machine.quick else ROUND_S)
        say(f"{work.questions} questions x {SAMPLES} samples x {work.max_new_tokens} tokens a round")
        for turn in range(machine.rounds):
            for side in rotated(list(found), turn):
                found[side].append(run(side))
            say(f"round {turn + 1} of {machine.rounds}: " + rates(found))
    return pool_row(draft, work.sentence, found)


def ours_once(work: Workload, directory: Path, threads: int) -> Found:
    with SideProcess("pool_side", directory, threads) as ours:
        ours.ask("start", model=work.checkpoint.directory, engine=work.engine)
        return ours.ask("generate", checkpoint=asdict(work.checkpoint), requests=work.requests, warm_up=work.warm_up)


def pool_row(draft: dict[str, str], data: str, found: Mapping[str, list[Found]]) -> Row:
    if wrong := disagreement(found):
        return Row(**draft, not_run=f"invalid, the sides do not generate the same ({wrong})")
    ratios = [ours["seconds"] / peer["seconds"] for ours, peer in zip(found["ours"], found["vllm"], strict=True)]
    taken = median(each["seconds"] for each in found["vllm"])
    detail = (
        f"{draft['detail']}; {data}; both keep each token's log-probability; medians of {len(ratios)} rounds in turns "
        f"of {taken:.0f} s each, the pool's cluster up in its own turns alone; by "
        f"round the ratio is {min(1 / each for each in ratios):.3f} to {max(1 / each for each in ratios):.3f}; all "
        f"{found['ours'][0]['tokens']:,} token ids are equal; vLLM without log-probabilities: "
        f"{rate(found['plain']):.0f} tokens/s"
    )
    return Row(**draft | {"detail": detail}, ours=rate(found["ours"]), peer=rate(found["vllm"]))
