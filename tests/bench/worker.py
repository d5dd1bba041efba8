"""One side of a throughput row in a process of its own: ``python -m tests.bench.worker SIDE DIRECTORY OPTIONS``.

Started by `Worker`, which asks for one round at a time, so that sides can take turns while each keeps its own memory
and threads. The process writes one JSON line per round, see `rounds.Rounds`; whatever libraries print goes to standard
error.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_NUMBERS = itertools.count(1)


class WorkerEnded(RuntimeError):
    """The process ended before its time; its last lines are in the message."""


class Worker:
    """A side that waits for us between rounds. Its first round is over on entering; `first` is its seconds.

    Raises:
        WorkerEnded: here and in every method.
    """

    def __init__(self, side: str, directory: Path, options: Mapping[str, Any], threads: int) -> None:
        self.first = 0.0
        self.errors = directory / f"{side}-{next(_NUMBERS)}.log"
        environment = os.environ | _QUIET | {"OMP_NUM_THREADS": str(threads)}
        if on_cpu(options):
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with self.errors.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.worker", side, str(directory), json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env=environment,
                text=True,
            )

    def __enter__(self) -> Worker:
        self.first = self._read()["seconds"]
        return self

    def round(self) -> float:
        """Seconds of one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()["seconds"]

    def finish(self) -> dict[str, Any]:
        """Ends the process: the sums of the first round, `loss` and `targets`, and `peak_mib`."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        sums = self._read()
        self.process.wait()
        return sums

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise WorkerEnded(f"{self.errors.stem} ended early:\n{self.errors.read_text()[-4000:]}")
        return json.loads(line)


def on_cpu(options: Mapping[str, Any]) -> bool:
    """Whether a side's options, ours or TRL's, keep it off GPUs."""
    return options.get("device") == "cpu" or bool(options.get("use_cpu"))


def main() -> None:
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    side, directory, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    import torch

    from tests.bench.rounds import Rounds
    from tests.bench.sides import SIDES

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    device = "cpu" if on_cpu(options) else "cuda"
    SIDES[side](directory, options, lambda steps: Rounds(steps, device, sys.stdin, reports)).close()


if __name__ == "__main__":
    main()
