"""The rows `swap_vs_engine_start`: new weights in a warm engine, against starting an engine on them.

Ours: swaps from one checkpoint to another and back on a leased engine, the canary's proof included. Theirs: a process
that imports vLLM, starts `vllm.LLM` on the checkpoint under the same settings, and samples one token. A second row
counts ours from the committed checkpoint to its first token: the lease, the swap and the token.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.generation import ENGINE, missing
from tests.bench.policies import Saved, checkpoints, gsm8k_requests, prompts_of, write_requests
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, SideProcess
from tests.bench.throughput import say
from tests.bench.workload import HEADLINE, SHIPPED, Shape

SWAPS = 6
"""In one round."""


def rows(machine: Machine) -> Iterator[Row]:
    for shape in (SHIPPED,) if machine.quick else (HEADLINE, SHIPPED):
        yield from rows_of(shape, machine)


def rows_of(shape: Shape, machine: Machine) -> Iterator[Row]:
    drafts = {
        what: {
            "name": f"{name}{shape.suffix}",
            "peer_name": "a new process with vllm.LLM, to its first token",
            "unit": "s",
            "detail": f"{shape.description}; float32, {machine.threads} threads",
        }
        for what, name in (("swap", "swap_vs_engine_start"), ("first_token", "commit_to_token_vs_engine_start"))
    }
    if reason := missing():
        yield from (Row(**draft, not_run=reason) for draft in drafts.values())
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            found = measure(shape, Path(directory), machine)
        except SideEnded as error:
            yield from (Row(**draft, not_run=str(error)) for draft in drafts.values())
            return
    for what, draft in drafts.items():
        yield row_of(draft, what, found)


def measure(shape: Shape, directory: Path, machine: Machine) -> dict[str, Any]:
    """Seconds of swaps, of commit to first token, and of engine starts, by turn; and the largest canary difference."""
    both, engine = checkpoints(shape, directory, count=2), ENGINE | {"threads": machine.threads}
    first = str(directory / "first.json")
    write_requests(gsm8k_requests(prompts_of(both[0].directory), 1, 1, 1), Path(first))
    found: dict[str, Any] = {"swap": [], "first_token": [], "start": [], "canary": [], "pool": []}
    for turn in range(machine.rounds):
        found["start"].append(engine_start(both[turn % 2], engine, first, directory, machine.threads))
        with SideProcess("pool_side", directory, machine.threads) as ours:
            found["pool"].append(ours.ask("start", model=both[0].directory, engine=engine)["seconds"])
            swaps = ours.ask("swap", checkpoints=[asdict(each) for each in both], times=SWAPS, first=first)
        for what in ("swap", "first_token"):
            found[what] += swaps[what]
        found["canary"].append(swaps["canary"])
        say(
            f"round {turn + 1} of {machine.rounds}: engine start {found['start'][-1]:.1f} s, swap "
            f"{median(swaps['swap']):.3f} s, commit to first token {median(swaps['first_token']):.3f} s"
        )
    return found


def engine_start(checkpoint: Saved, engine: Mapping[str, Any], first: str, directory: Path, threads: int) -> float:
    """Seconds from starting the process to the first token of a request."""
    with SideProcess("vllm_side", directory, threads) as peer:
        peer.ask("start", model=checkpoint.directory, engine=engine)
        assert peer.ask("first_token", requests=first) == 1
        return time.perf_counter() - peer.started


def row_of(draft: dict[str, str], what: str, found: Mapping[str, Any]) -> Row:
    times: Sequence[float] = found[what]
    counted = {
        "swap": "the swap as its caller sees it, canary included",
        "first_token": "from the committed checkpoint: lease, swap with canary, one token",
    }[what]
    detail = (
        f"{draft['detail']}; {counted}; median of {len(times)}, {min(times):.3f} to {max(times):.3f} s, between two "
        f"checkpoints, files in the page cache; canary differences up to {max(found['canary']):.1g} nats; median of "
        f"{len(found['start'])} starts, {min(found['start']):.1f} to {max(found['start']):.1f} s, in turns with the "
        f"swaps; the pool itself took {median(found['pool']):.0f} s to start"
    )
    return Row(**draft | {"detail": detail}, ours=median(times), peer=median(found["start"]))
