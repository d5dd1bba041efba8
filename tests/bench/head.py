"""Rows on the head: its time and its extra memory, forward and backward, beside dense PyTorch and every peer's head.

Memory is the most by which a fresh process grew over its inputs, less the two gradients that any head must return
(resident pages on Linux; on a GPU PyTorch's allocator). Time is wall time in one process, the sides taking turns. The
head runs at the chunk size it ships with, the peers at theirs.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.bench.head_sides import SIDES, Shape
from tests.bench.row import Machine, Row

PEERS = [name for name in SIDES if not name.startswith("ours")]
PAIRS = 40
"""Of a DFT step and an SFT step."""


def rows(machine: Machine) -> Iterator[Row]:
    large, small, pairs = shapes(machine)
    yield from beside_peers(large, "", PEERS, machine)
    yield from beside_peers(small, "_shipped_base", ["dense"], machine)
    yield dft_beside_sft(pairs, machine)


def shapes(machine: Machine) -> tuple[Shape, Shape, Shape]:
    """Qwen2.5-1.5B's head, the shipped base's, and a narrower one to take many pairs of."""
    if device() == "cuda":
        return (
            Shape(8192, 151_936, 1536, "cuda", "bfloat16"),
            Shape(16384, 384, 128, "cuda", "float32"),
            Shape(4096, 151_936, 1536, "cuda", "bfloat16"),
        )
    words = 16_384 if machine.quick else 151_936
    return (
        Shape(1024, words, 1536, "cpu", "float32"),
        Shape(8192, 384, 128, "cpu", "float32"),
        Shape(256, words, 512, "cpu", "float32"),
    )


@cache
def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def beside_peers(shape: Shape, suffix: str, peers: Sequence[str], machine: Machine) -> Iterator[Row]:
    """A row on memory and one on time per peer."""
    present = ["ours", *(peer for peer in peers if SIDES[peer].missing(shape.device) is None)]
    fresh = {side: worker("memory", machine, shape=asdict(shape), side=side) for side in present}
    timed = worker("time", machine, shape=asdict(shape), sides=present, rounds=machine.rounds)
    agree({side: value for found in fresh.values() for side, value in found["losses"].items()} | timed["losses"])
    mebibytes = {side: found["bytes"] / 2**20 for side, found in fresh.items()}
    milliseconds = {side: 1e3 * median(found) for side, found in timed["seconds"].items()}
    for peer in peers:
        for what, unit, found in (("memory", "MiB", mebibytes), ("time", "ms", milliseconds)):
            row = {
                "name": f"head_{what}_vs_{peer}{suffix}",
                "peer_name": SIDES[peer].described,
                "unit": unit,
                "detail": f"DFT, forward and backward, {shape}, {machine.threads} threads; {METHODS[what]}",
            }
            reason = SIDES[peer].missing(shape.device)
            yield Row(**row, not_run=reason) if reason else Row(**row, ours=found["ours"], peer=found[peer])


METHODS = {
    "memory": "peak of a fresh process over its inputs, less the two gradients",
    "time": "medians of interleaved runs",
}


def dft_beside_sft(shape: Shape, machine: Machine) -> Row:
    """One head's step under DFT and under SFT, in pairs whose order alternates; the rest of a step is the same."""
    pairs = 5 if machine.quick else PAIRS
    request = {"sides": ["ours", "ours_sft"], "rounds": pairs, "alternate": True}
    seconds = worker("time", machine, shape=asdict(shape), **request)["seconds"]
    dft, sft = np.array(seconds["ours"]), np.array(seconds["ours_sft"])
    drawn = np.random.default_rng(0).integers(pairs, size=(10_000, pairs))
    ratios = np.median(dft[drawn], axis=1) / np.median(sft[drawn], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Row(
        name="dft_vs_sft_step_time",
        peer_name="the same head under sft",
        unit="ms",
        detail=f"the head alone, {shape}, {machine.threads} threads; {pairs} interleaved pairs, median of the pairs' "
        f"ratios {np.median(dft / sft):.4f}; interval by bootstrap over pairs",
        ours=1e3 * float(np.median(dft)),
        peer=1e3 * float(np.median(sft)),
        interval=(float(low), float(high)),
    )


def agree(losses: dict[str, float]) -> None:
    """Raises ValueError if the sides did not compute the same loss."""
    wrong = {side: value for side, value in losses.items() if not math.isclose(value, losses["ours"], rel_tol=2e-2)}
    if wrong:
        raise ValueError(f"the heads disagree on the loss: ours {losses['ours']}, {wrong}")


def worker(what: str, machine: Machine, **request: Any) -> dict[str, Any]:
    """Runs `head_worker` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.head_worker", what, json.dumps(request)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": str(machine.threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"measuring {request} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)
