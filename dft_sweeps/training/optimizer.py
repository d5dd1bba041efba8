"""AdamW and the learning rate of each step, as the spec has them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from dft_sweeps.spec.models import ScheduleSpec, TrainSpec


def adamw(parameters: Iterable[nn.Parameter], train: TrainSpec) -> torch.optim.AdamW:
    """AdamW over all that is trained, weight decay on every parameter of it, as in the published recipe."""
    settings = train.optimizer
    return torch.optim.AdamW(
        parameters,
        lr=train.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleSpec) -> float:
    """Learning rate of optimizer step `step`, counted from 1 to `steps`.

    Linear warm-up over the first ``warmup_ratio * steps`` steps, reaching `peak` on the last of them; then constant,
    or a cosine that would reach zero one step after the last.
    """
    warmup = int(round(schedule.warmup_ratio * steps, 6))  # 0.29 * 100 is 28.999999999999996
    if step <= warmup:
        return peak * step / warmup
    if schedule.kind == "constant":
        return peak
    progress = (step - warmup - 1) / max(steps - warmup, 1)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
