"""How the policy's probabilities of its training targets are distributed: the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dft_sweeps.data.encode import Sample
from dft_sweeps.spec.models import ExecutionSpec
from dft_sweeps.training.logprobs import all_logprobs
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks


def probability_histogram(
    policy: Policy,
    data: Sequence[Sample],
    samples: int,
    edges: Sequence[float],
    execution: ExecutionSpec,
    ranks: Ranks,
) -> list[float]:
    """Share of the targets of a fixed subset of `data` whose probability lies in each bin between two `edges`.

    A bin holds its lower edge but not its upper one; the last bin, which ends at 1, holds both.
    The subset is the same for every trial on the same data: `samples` of them, or all if there are fewer. Collective.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(data))[:samples])
    logp = np.concatenate(all_logprobs(policy, [data[index] for index in chosen.tolist()], execution, ranks))
    counts, _ = np.histogram(np.exp(logp.astype(np.float64)).clip(0, 1), bins=edges)
    return (counts / max(len(logp), 1)).tolist()
