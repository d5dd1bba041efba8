"""Rows on training throughput on a CPU: target tokens per second of a DFT step, ours beside TRL's SFTTrainer.

Both sides train the same weights on the same samples in float32 and take the same optimizer batch in every round. Their
target masks and the loss of the first step must agree, or there are no figures. TRL has a row as it comes, and one in
its best configuration: every candidate is tried, the fastest ones take part in all rounds, and the best median counts.
On a CPU its packed rows are attended to densely under a mask. That is correct, for the
losses would not agree if samples saw each other, and slow, so what wins is rows of one sample or of similar lengths.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.row import Machine, Row, installed_versions
from tests.bench.worker import Worker
from tests.bench.workload import GSM8K, SAMPLES, Shape, prepare

AGREEMENT = 1e-4
"""Largest relative difference of the first step's losses."""
LONG_ENOUGH = 20.0
"""Seconds a side is measured for, if its five rounds are shorter, in up to five times as many rounds."""

TRIED_FOR = 5.0
"""Seconds a candidate is tried for. One whose first round takes longer is judged by it."""
FINALISTS = 20.0
"""Seconds that one round of all finalists may take: they are as many of the fastest as fit, at least one."""

OURS = {"device": "cpu", "dtype": "float32"}
_CPU = {"bf16": False, "use_cpu": True}
_FAST = _CPU | {"gradient_checkpointing": False, "logging_strategy": "no"}
_GROUPED = _FAST | {"train_sampling_strategy": "group_by_length"}
DEFAULT = _CPU | {"per_device_train_batch_size": 8, "gradient_accumulation_steps": SAMPLES // 8}


def candidates(longest: int) -> dict[str, dict[str, Any]]:
    """Configurations of SFTConfig that train on the same targets; `longest` is the longest sample in tokens."""
    row = 2 ** math.ceil(math.log2(longest))
    return {
        f"packed (bfd) in rows of {row}": _FAST | {"packing": True, "max_length": row},
        "2 grouped by length": _GROUPED | _batches_of(2),
        "4 grouped by length": _GROUPED | _batches_of(4),
        "4 padding-free": _FAST | _batches_of(4) | {"padding_free": True, "max_length": None},
        "one sample at a time": _FAST | _batches_of(1),
    }


def _batches_of(size: int) -> dict[str, int]:
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": SAMPLES // size}


@dataclass
class Measured:
    """A side's seconds by round, and once it has finished its first step's sums."""

    seconds: list[float] = field(default_factory=list)
    sums: dict[str, Any] = field(default_factory=dict)
    throughout: bool = False
    """Whether it took part in all rounds, and was not just tried."""

    def rate(self) -> float:
        """Target tokens per second, by the median round."""
        return self.sums["targets"] / median(self.seconds)


def rows(shape: Shape, machine: Machine) -> Iterator[Row]:
    """The rows of one model: TRL's best configuration and its default one."""
    drafts = {
        what: {
            "name": f"dft_tokens_per_second_vs_trl_{what}{shape.suffix}",
            "peer_name": f'TRL {installed_versions()["trl"]} SFTTrainer(loss_type="dft"), {what} configuration',
            "unit": "target tokens/s",
            "detail": f"{shape.description}; float32, {machine.threads} threads",
        }
        for what in ("best", "default")
    }
    if reason := missing():
        yield from (Row(**draft, not_run=reason) for draft in drafts.values())
        return
    with tempfile.TemporaryDirectory() as directory:
        data = prepare(shape, Path(directory))
        sides = measure(Path(directory), candidates(data.longest), machine)
    for what, draft in drafts.items():
        yield row_of(draft, what, sides, data.sentence)


def missing() -> str | None:
    """Why these rows cannot be measured here."""
    if find_spec("trl") is None:
        return "TRL is not installed (pip install 'dft-sweeps[bench]')"
    return None if GSM8K.is_file() else "GSM8K's training file is not in ../shared/data/train"


def measure(directory: Path, tried: Mapping[str, Mapping[str, Any]], machine: Machine) -> dict[str, Measured]:
    """What every side took: ours, TRL's default and its fastest candidates in all rounds, the others when tried."""
    found: dict[str, Measured] = {}
    with ExitStack() as stack:

        def start(side: str, options: Mapping[str, Any]) -> Worker:
            return stack.enter_context(Worker(side, directory, options, machine.threads))

        workers: dict[str, Worker] = {}
        for name, options in list(tried.items())[:2] if machine.quick else tried.items():
            workers[name] = start("trl", options)
            found[name] = Measured(tried_out(workers[name]))
            say(f"TRL, {name}: {median(found[name].seconds):.2f} s")
            for slow in beyond_budget({name: median(found[name].seconds) for name in workers}):
                found[slow].sums = workers.pop(slow).finish()
        workers |= {"ours": start("ours", OURS), "default": start("trl", DEFAULT)}
        for name, seconds in take_turns(workers, machine).items():
            found[name] = Measured(seconds, workers[name].finish(), throughout=True)
    return found


def tried_out(worker: Worker) -> list[float]:
    """Seconds of the first round, or of a few more after it where it is short."""
    if worker.first > TRIED_FOR:
        return [worker.first]
    return [worker.round() for _ in range(min(5, math.ceil(TRIED_FOR / worker.first)))]


def beyond_budget(seconds: Mapping[str, float]) -> list[str]:
    """Candidates too slow to take part; the fastest always does."""
    by_speed = sorted(seconds, key=lambda name: seconds[name])
    totals = itertools.accumulate(seconds[name] for name in by_speed)
    return [name for name, total in list(zip(by_speed, totals, strict=True))[1:] if total > FINALISTS]


def take_turns(workers: Mapping[str, Worker], machine: Machine) -> dict[str, list[float]]:
    """Seconds of each side's rounds: one round each in turn, in an order that shifts by one every time."""
    names = list(workers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rounds = machine.rounds
    while len(seconds[names[-1]]) < rounds:
        turn = len(seconds[names[-1]])
        for index in range(len(names)):
            name = names[(index + turn) % len(names)]
            seconds[name].append(workers[name].round())
        if turn == 0 and not machine.quick:
            quickest = min(taken[0] for taken in seconds.values())
            rounds = max(rounds, min(5 * rounds, math.ceil(LONG_ENOUGH / quickest)))
        say(
            f"round {turn + 1} of {rounds}: "
            + ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in seconds.items())
        )
    return seconds


def row_of(draft: dict[str, str], what: str, sides: Mapping[str, Measured], data: str) -> Row:
    """The row on TRL's ``best`` or ``default`` configuration, without figures where the sides did not train the same.

    The best is the fastest of those that took part in all rounds and trained the same.
    """
    ours = sides["ours"]
    wrong = {name: disagreement(ours.sums, side.sums) for name, side in sides.items()}
    others = [name for name in sides if name not in ("ours", "default")]
    fit = [name for name in others if sides[name].throughout and not wrong[name]]
    chosen = "default" if what == "default" else max(fit, key=lambda name: sides[name].rate(), default=None)
    if chosen is None or wrong[chosen]:
        found = "; ".join(f"{name}: {difference}" for name, difference in wrong.items() if difference)
        return Row(**draft, not_run=f"invalid, the sides do not train the same ({found})")
    peer = sides[chosen]
    tried = ", ".join(f"{name} {sides[name].rate():.0f}" for name in others)
    detail = (
        f"{draft['detail']}; {data}; one optimizer batch of {SAMPLES} samples a round, medians of "
        f"{len(ours.seconds)} interleaved rounds after a warm-up, neither side compiled; "
        f"first step's loss {ours.sums['loss']:.6g} and "
        f"{peer.sums['loss']:.6g} on {ours.sums['targets']} targets; peak memory {ours.sums['peak_mib']:.0f} and "
        f"{peer.sums['peak_mib']:.0f} MiB; TRL's configurations, in target tokens/s: {tried}"
    )
    peer_name = draft["peer_name"] if what == "default" else f"{draft['peer_name']}: {chosen}"
    return Row(**draft | {"detail": detail, "peer_name": peer_name}, ours=ours.rate(), peer=peer.rate())


def disagreement(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str | None:
    """How the first steps of two sides differ, None if they do not: in targets, or in the loss by over 1e-4."""
    if ours["targets"] != peer["targets"]:
        return f"{ours['targets']} targets and {peer['targets']}"
    if not math.isclose(ours["loss"], peer["loss"], rel_tol=AGREEMENT):
        return f"losses {ours['loss']:.6g} and {peer['loss']:.6g}"
    return None


def say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
