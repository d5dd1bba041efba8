"""One side of a throughput row, in a process of its own: ``python -m tests.bench.worker SIDE DIRECTORY OPTIONS``.

Its output has one JSON line per round, see `rounds.Rounds`; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    side, directory, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    import torch

    from tests.bench.rounds import Rounds
    from tests.bench.sides import SIDES

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rounds = SIDES[side](directory, options, lambda steps: Rounds(steps, "cpu", sys.stdin, reports))
    rounds.close()


if __name__ == "__main__":
    main()
