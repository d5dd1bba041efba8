from __future__ import annotations

from typing import Any

from tests.bench.swap import row_of

FOUND: dict[str, Any] = {
    "swap": [0.1, 0.3, 0.1, 0.2, 9.0],
    "first_token": [0.2, 0.4, 0.3],
    "start": [20.0, 40.0, 30.0],
    "canary": [1e-6, 3e-6],
    "pool": [25.0],
}


def test_a_row_is_the_medians_of_swaps_and_starts() -> None:
    draft = {"name": "swap_vs_engine_start", "peer_name": "vLLM", "unit": "s", "detail": "a model"}
    row = row_of(draft, "swap", FOUND)
    assert (row.ours, row.peer) == (0.2, 30.0)
    assert "0.100 to 9.000" in row.detail and "3e-06" in row.detail
    assert row_of(draft, "first_token", FOUND).ours == 0.3
