"""How the ranks of a trial agree on what rank 0 alone can tell: what its files hold, and what time it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dft_sweeps.training.sharding import Ranks


def from_rank_0(value: int, ranks: Ranks, device: torch.device) -> int:
    """Rank 0's `value`, on every rank. Collective; free for a single rank."""
    if ranks.world_size == 1:
        return value
    import torch

    return int(ranks.sum(torch.tensor(value if ranks.rank == 0 else 0, dtype=torch.int64, device=device)))
