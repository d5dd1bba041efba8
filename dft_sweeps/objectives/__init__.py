"""Objectives: pure functions from per-token log-probabilities to per-token losses."""

from dft_sweeps.objectives.token import OBJECTIVES, TokenObjective, dft, sft

__all__ = ["OBJECTIVES", "TokenObjective", "dft", "sft"]
