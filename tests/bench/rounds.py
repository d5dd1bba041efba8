"""Rounds: stops a trainer after every pass over its samples until it is told to go on, and times the passes.

It sits in the optimizer's hooks, so it is the same code on every side, whatever loop calls the optimizer: a round ends
when the step of its last batch ends. The first round, from which a figure should not be taken, has learning rate zero
and so leaves the initial weights alone: its losses, summed over the round, must be the same number on every side.
"""

from __future__ import annotations

import json
import resource
import time
from typing import Any, TextIO

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Stopped(Exception):
    """There are no more commands, so no more rounds."""


class Rounds:
    """Counts optimizer steps, and at the end of each round writes a line to `reports` and reads one of `commands`."""

    def __init__(self, steps: int, device: str, commands: TextIO, reports: TextIO) -> None:
        self.steps, self.device, self.commands, self.reports = steps, device, commands, reports
        self.taken, self.loss, self.targets = 0, 0.0, 0
        self._started = time.perf_counter()
        self._hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]

    @property
    def warm(self) -> bool:
        """Whether the first round is over."""
        return self.taken >= self.steps

    def record(self, loss: float, targets: int) -> None:
        """Adds to the first round's sums: `loss` is summed over `targets` targets."""
        self.loss += loss
        self.targets += targets

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self.warm:
            for group in optimizer.param_groups:
                group["lr"] = 0.0

    def _after_step(self, *_: Any) -> None:
        self.taken += 1
        if self.taken % self.steps:
            return
        if self.device == "cuda":
            torch.cuda.synchronize()
        self._report({"seconds": time.perf_counter() - self._started})
        if not self.commands.readline():
            raise Stopped
        self._started = time.perf_counter()

    def close(self) -> None:
        """Writes the last line: the first round's sums and the peak memory."""
        for hook in self._hooks:
            hook.remove()
        if self.device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
        self._report({"loss": self.loss, "targets": self.targets, "peak_mib": peak})

    def _report(self, message: dict[str, Any]) -> None:
        self.reports.write(json.dumps(message) + "\n")
        self.reports.flush()
