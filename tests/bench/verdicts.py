"""Adaptive sampling replayed: how many tokens it needs until one policy is known to be above the other.

All samples of both policies are generated once; a replay draws 16 of each question's at random, gives them out round by
round as `next_round_of_two` asks, and counts the tokens of what was given. Beside it stands the verdict of all 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dft_sweeps.evaluation.adaptive import next_round_of_two
from dft_sweeps.evaluation.intervals import counts
from dft_sweeps.evaluation.paired import difference_bounds

FIXED = 16
"""Samples per question that are taken without adaptive sampling."""


@dataclass(frozen=True)
class Sampled:
    """One policy on one list of questions: [questions, samples] each."""

    right: NDArray[np.bool_]
    tokens: NDArray[np.int64]

    def drawn(self, random: np.random.Generator, samples: NDArray[np.int64]) -> Sampled:
        """`FIXED` of the samples numbered in `samples`, drawn without repetition for each question."""
        order = np.array([random.permutation(samples)[:FIXED] for _ in self.right])
        return Sampled(*(np.take_along_axis(table, order, axis=1) for table in (self.right, self.tokens)))


@dataclass(frozen=True)
class Replay:
    """A comparison played once."""

    verdict: str | None
    tokens: int
    fixed_verdict: str | None
    fixed_tokens: int


def replay(a: Sampled, b: Sampled) -> Replay:
    """Plays the comparison of A and B on samples [questions, 16], from the first one on."""
    fixed_tokens, taken = int(a.tokens.sum() + b.tokens.sum()), 0
    while True:
        step = next_round_of_two(_rows(a, taken), _rows(b, taken), FIXED)
        if step.done:
            break
        taken += max(step.more)
    spent = int(a.tokens[:, :taken].sum() + b.tokens[:, :taken].sum())
    return Replay(step.verdict, spent, fixed_verdict(a, b), fixed_tokens)


def fixed_verdict(a: Sampled, b: Sampled) -> str | None:
    """What the 95% interval of all samples says of this list of questions."""
    _, low, high = difference_bounds(*counts(_rows(a, FIXED)), *counts(_rows(b, FIXED)), kind="fixed_list")
    return "above" if low > 0 else "below" if high < 0 else None


def _rows(sampled: Sampled, taken: int) -> list[list[bool]]:
    return sampled.right[:, :taken].tolist()


def replays(a: Sampled, b: Sampled, times: int, seed: int) -> list[Replay]:
    """Each time with other samples."""
    random = np.random.default_rng(seed)
    everything = np.arange(a.right.shape[1])
    return [replay(a.drawn(random, everything), b.drawn(random, everything)) for _ in range(times)]


def null_replays(a: Sampled, times: int, seed: int) -> list[Replay]:
    """A policy against itself: two sets of its samples that have none in common, so any verdict is wrong."""
    random = np.random.default_rng(seed)
    samples, found = a.right.shape[1], []
    for _ in range(times):
        order = random.permutation(samples)
        sides = order[: samples // 2], order[samples // 2 :]
        found.append(replay(*(a.drawn(random, side) for side in sides)))
    return found


def summary(found: Mapping[str, Sequence[Replay]]) -> dict[str, Any]:
    """Over the replays of several lists, played side by side: mean tokens of a verdict on each list, and agreement."""
    played = [each for replays in found.values() for each in replays]
    rounds = list(zip(*found.values(), strict=True))
    ratios = [sum(each.tokens for each in of) / sum(each.fixed_tokens for each in of) for of in rounds]
    return {
        "tokens": float(np.mean([sum(each.tokens for each in of) for of in rounds])),
        "fixed_tokens": float(np.mean([sum(each.fixed_tokens for each in of) for of in rounds])),
        "ratios": np.quantile(ratios, [0.025, 0.975]).tolist(),
        "same": float(np.mean([each.verdict == each.fixed_verdict for each in played])),
        "opposite": sum({each.verdict, each.fixed_verdict} == {"above", "below"} for each in played),
        "settled": float(np.mean([each.verdict is not None for each in played])),
        "by_list": {
            name: sum(each.tokens for each in replays) / sum(each.fixed_tokens for each in replays)
            for name, replays in found.items()
        },
        "verdicts": {name: _share(replays) for name, replays in found.items()},
    }


def _share(replays: Sequence[Replay]) -> dict[str, float]:
    """How often each verdict came out."""
    said = [str(each.verdict) for each in replays]
    return {verdict: said.count(verdict) / len(said) for verdict in sorted(set(said))}
