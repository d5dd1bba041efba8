"""The rows `two_replicas_vs_one`: a pool of two engines of one thread each, against pools of one engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from tests.bench import generation
from tests.bench.generation import (
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
from tests.bench.workload import SHIPPED, SMALL_VOCABULARY

ROUND_S = 20.0
"""Seconds that one round of the single engine is to take."""


def rows(machine: Machine) -> Iterator[Row]:
    """Two engines of one thread against one of one thread and one of two, for both shapes."""
    for shape in (SHIPPED,) if machine.quick else (SMALL_VOCABULARY, SHIPPED):
        drafts = {
            threads: {
                "name": f"two_replicas_vs_one{of}{shape.suffix}",
                "peer_name": f"a pool of one engine of {threads} thread{'s' * (threads > 1)}",
                "unit": "tokens/s",
                "detail": f"{shape.description}; two engines of 1 thread in the pool, on 2 cores",
            }
            for threads, of in ((1, ""), (2, "_of_two_threads"))
        }
        if reason := missing():
            yield from (Row(**draft, not_run=reason) for draft in drafts.values())
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                tokens = generation.QUICK_TOKENS if machine.quick else generation.MAX_NEW_TOKENS
                work = Workload(shape, Path(directory), 1, tokens)
                yield from replicas(drafts, work, Path(directory), machine)
            except SideEnded as error:
                yield from (Row(**draft, not_run=str(error)) for draft in drafts.values())


def replicas(drafts: Mapping[int, dict[str, str]], work: Workload, directory: Path, machine: Machine) -> Iterator[Row]:
    """All three pools stay up on one cluster, so its idle load is the same for all."""
    found: dict[str, list[Found]] = {"one": [], "one_of_2": [], "two": []}
    with SideProcess("pool_side", directory, threads=1) as side:
        for name, threads, count in (("one", 1, 1), ("one_of_2", 2, 1), ("two", 1, 2)):
            engine = work.engine | {"threads": threads}
            side.ask("start", model=work.checkpoint.directory, engine=engine, name=name, replicas=count)
            say(f"{count} engine(s) of {threads} thread(s) up")

        def run(name: str) -> Found:
            files = {"requests": work.requests, "warm_up": work.warm_up}
            return work.require_length(side.ask("generate", checkpoint=asdict(work.checkpoint), **files, name=name))

        work.ask(16)
        # The engines keep what they cached of the prompts, all of them alike: from the second round on no prefill.
        work.fit(run("one"), 3.0 if machine.quick else ROUND_S)
        for turn in range(machine.rounds):
            for name in rotated(list(found), turn):
                found[name].append(run(name))
            say(f"round {turn + 1} of {machine.rounds}: " + rates(found))
    for threads, draft in drafts.items():
        yield row_of(draft, work.sentence, found, "one" if threads == 1 else "one_of_2")


def row_of(draft: dict[str, str], data: str, found: Mapping[str, list[Found]], peer: str) -> Row:
    if wrong := disagreement(found, same_tokens=False):
        return Row(**draft, not_run=f"invalid, the sides do not generate the same ({wrong})")
    detail = f"{draft['detail']}; {data}; medians of {len(found[peer])} rounds in turns, all pools up on one cluster"
    return Row(**draft | {"detail": detail}, ours=rate(found["two"]), peer=rate(found[peer]))
