"""The rows of evaluation beside training: what handing checkpoints over costs a trial, and what sharing cores with an
engine does.

Both are read from two sweeps of one real trial each, by the real command: one evaluated every few steps, so that the
engine works beside training all the time, and one at its two ends only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.adaptive import QUICKSTART
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, run_command
from tests.bench.throughput import say

STEPS, EVERY, SAMPLES = 60, 20, 16
_ONE_TRIAL = (
    "variants=[]",
    "axes={}",
    "trial.train.objective.kind=dft",
    "trial.data.source.samples=1920",
)


@dataclass(frozen=True)
class Trained:
    handing_over: float
    """Share of the trial's training."""
    tokens_per_second: float
    """Median over its steps."""
    checkpoints: int


def rows(machine: Machine) -> Iterator[Row]:
    drafts = {
        "handing_over": {
            "name": "training_lost_to_evaluation",
            "peer_name": "the whole of a trial's training",
            "unit": "share",
        },
        "sharing": {
            "name": "training_beside_an_engine",
            "peer_name": "the same trial evaluated at its ends only",
            "unit": "tokens/s",
        },
    }
    steps = 20 if machine.quick else STEPS
    for draft in drafts.values():
        draft["detail"] = (
            f"the shipped base, {steps} steps of 32 samples, a checkpoint every {EVERY}, three benchmarks x {SAMPLES} "
            f"samples each; one training thread and one engine of one thread; medians of {machine.rounds} trials each"
        )
    found: dict[int, list[Trained]] = {EVERY: [], steps: []}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            for turn in range(machine.rounds):
                for every in found:
                    storage = Path(directory) / f"{every}-{turn}"
                    found[every].append(trial(storage, steps, every, turn + 1))
                say(f"round {turn + 1} of {machine.rounds}: {found[EVERY][-1]}, and alone {found[steps][-1]}")
        except SideEnded as error:
            yield from (Row(**draft, not_run=str(error)) for draft in drafts.values())
            return
    beside, alone = found[EVERY], found[steps]
    draft = drafts["handing_over"]
    shares = [each.handing_over for each in beside]
    draft["detail"] += f"; {beside[0].checkpoints} checkpoints; by trial {min(shares):.4f} to {max(shares):.4f}"
    yield Row(**draft, ours=median(shares), peer=1.0)
    yield Row(
        **drafts["sharing"],
        ours=median(each.tokens_per_second for each in beside),
        peer=median(each.tokens_per_second for each in alone),
    )


def trial(storage: Path, steps: int, every: int, seed: int) -> Trained:
    """Runs one trial by the command, and reads its run."""
    settings = [
        *_ONE_TRIAL,
        f"trial.train.steps={steps}",
        f"trial.train.seed={seed}",
        f"trial.evaluation.every={every}",
        f"trial.evaluation.samplings={{sampled: {{samples: {SAMPLES}, max_new_tokens: 112}}}}",
    ]
    run_command(storage, "run", str(QUICKSTART), *(part for setting in settings for part in ("--set", setting)))
    return read(storage)


def read(storage: Path) -> Trained:
    """What the only trial of a storage tells of its training."""
    from dft_sweeps.tracking import names
    from dft_sweeps.tracking.reader import Reader

    reader = Reader(f"sqlite:///{storage / 'mlflow.db'}")
    [row] = reader.trials(reader.find_sweep("quickstart"))
    assert row.run_id is not None
    speeds = reader.curve(row.run_id, names.train_metric("tokens_per_second"))
    share = float(reader._client.get_run(row.run_id).data.tags[names.HANDING_OVER_TAG])
    return Trained(share, median(speed for _, speed in speeds), len(reader.evaluated_steps(row.run_id)))
