"""Measures heads in a process of its own: `python -m tests.bench.head_worker time|memory REQUEST`, REQUEST in JSON.

`time` takes sides in turn, round after round, and prints their seconds. `memory` takes one side and prints the bytes
by which the process (on a GPU: PyTorch's allocator) grew at most during one forward and backward pass, less the bytes
of the two gradients. Both print the loss of each side, which must be the same.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.bench.head_sides import SIDES, Loss, Shape


def run(loss: Loss, shape_inputs: tuple[torch.Tensor, ...]) -> float:
    """One forward and backward pass from empty gradients; the loss."""
    hidden, weight, labels = shape_inputs
    hidden.grad = weight.grad = None
    value = loss(hidden, weight, labels)
    value.backward()
    return float(value.detach())


def measure_time(shape: Shape, sides: list[str], rounds: int, alternate: bool = False) -> dict[str, Any]:
    """Seconds of each side in each round, after a round that is not counted."""
    losses, inputs = {side: SIDES[side].make() for side in sides}, shape.inputs()
    values = {side: run(loss, inputs) for side, loss in losses.items()}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for index in range(rounds):
        order = sides[::-1] if alternate and index % 2 else sides
        for side in order:
            synchronize(shape)
            started = time.perf_counter()
            run(losses[side], inputs)
            synchronize(shape)
            seconds[side].append(time.perf_counter() - started)
    return {"seconds": seconds, "losses": values}


def synchronize(shape: Shape) -> None:
    if shape.device == "cuda":
        torch.cuda.synchronize()


def measure_memory(shape: Shape, side: str) -> dict[str, Any]:
    loss = SIDES[side].make()
    run(loss, replace(shape, tokens=64, vocabulary=512).inputs())  # what libraries allocate once is not counted
    inputs = shape.inputs()
    before = reset_peak(shape)
    value = run(loss, inputs)
    gradients = sum(tensor.nbytes for tensor in inputs[:2])
    return {"bytes": peak(shape) - before - gradients, "losses": {side: value}}


def reset_peak(shape: Shape) -> int:
    """Forgets the peak; bytes in use now."""
    if shape.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from VmRSS
    return from_proc("VmRSS")


def peak(shape: Shape) -> int:
    return torch.cuda.max_memory_allocated() if shape.device == "cuda" else from_proc("VmHWM")


def from_proc(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    report = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever libraries print
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    request = json.loads(sys.argv[2])
    shape = Shape(**request.pop("shape"))
    measure = {"time": measure_time, "memory": measure_memory}[sys.argv[1]]
    json.dump(measure(shape, **request), report)


if __name__ == "__main__":
    main()
