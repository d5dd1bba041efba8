from __future__ import annotations

from tests.bench.logging_share import row_of

DRAFT = {"name": "logging_share_of_step", "peer_name": "limit", "unit": "share", "detail": "a model"}


def test_the_row_is_the_median_share_beside_the_limit() -> None:
    found = {"shares": [0.002, 0.009, 0.004], "step_s": 0.25, "longest_s": 0.0123, "points_per_s": 9876.0}
    row = row_of(DRAFT, found, "16 samples")
    assert (row.ours, row.peer) == (0.004, 0.01)
    assert "0.20% to 0.90%, of 250 ms steps" in row.detail and "9,876 points a second" in row.detail
