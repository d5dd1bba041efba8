from __future__ import annotations

from typing import Any

import pytest

from tests.bench.row import Row

CLAIM: dict[str, Any] = {"name": "speed", "peer_name": "theirs", "unit": "tokens/s", "detail": "1 thread"}


def test_a_measured_row_knows_its_ratio() -> None:
    row = Row(**CLAIM, ours=300.0, peer=200.0)
    assert row.ratio == 1.5
    assert row.as_dict()["ratio"] == 1.5
    assert row.versions.keys() >= {"torch", "transformers", "trl", "liger-kernel"}


def test_a_row_that_was_not_run_says_why_and_has_no_ratio() -> None:
    row = Row(**CLAIM, not_run="no GPU")
    assert row.ratio is None
    assert row.as_dict()["not_run"] == "no GPU"


@pytest.mark.parametrize("figures", [{}, {"ours": 1.0}, {"peer": 1.0}, {"ours": 1.0, "peer": 1.0, "not_run": "why?"}])
def test_a_row_is_either_measured_or_not_run(figures: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="row speed"):
        Row(**CLAIM, **figures)
