"""The row of a plan: the wall time that `plan` gives of the quickstart, beside what `run` then takes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.adaptive import QUICKSTART
from tests.bench.row import Machine, Row
from tests.bench.side_process import SideEnded, run_command
from tests.bench.throughput import say


def rows(machine: Machine) -> Iterator[Row]:
    draft = {
        "name": "plan_of_the_quickstart",
        "peer_name": "the wall time of `run`, the whole command",
        "unit": "s",
        "detail": f"6 trials, from nothing, on this machine's cores; medians of {machine.rounds} rounds, each of a "
        "storage of its own, so that declared speeds are all that a plan goes by; within a factor of 2 is asked for",
    }
    planned, taken = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        try:
            for turn in range(machine.rounds):
                storage = Path(directory) / str(turn)
                plan = json.loads(run_command(storage, "plan", str(QUICKSTART), "--json"))
                planned.append(float(plan["total"]["seconds"]))
                begun = time.monotonic()
                run_command(storage, "run", str(QUICKSTART))
                taken.append(time.monotonic() - begun)
                say(f"round {turn + 1} of {machine.rounds}: planned {planned[-1]:.0f} s, taken {taken[-1]:.0f} s")
        except SideEnded as error:
            yield Row(**draft, not_run=str(error))
            return
    draft["detail"] += f"; taken {min(taken):.0f} to {max(taken):.0f} s"
    yield Row(**draft, ours=median(planned), peer=median(taken))
