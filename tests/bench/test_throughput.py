from __future__ import annotations

from typing import Any

import pytest

from tests.bench import throughput
from tests.bench.throughput import Measured, beyond_budget, disagreement, row_of
from tests.bench.workload import SAMPLES

DRAFT = {"name": "speed", "peer_name": "TRL", "unit": "target tokens/s", "detail": "a model"}


def side(*seconds: float, loss: float = 4.0, targets: int = 100, throughout: bool = True) -> Measured:
    return Measured(list(seconds), {"loss": loss, "targets": targets, "peak_mib": 10.0}, throughout)


def test_the_best_is_the_fastest_by_median_of_those_that_ran_to_the_end() -> None:
    sides = {"ours": side(1, 9, 1), "default": side(4, 4, 4), "a": side(2, 2, 9), "b": side(1, 3, 3)}
    sides["c"] = side(0.5, throughout=False)
    best, default = (row_of(DRAFT, what, sides, "data") for what in ("best", "default"))
    assert (best.ours, best.peer, best.peer_name) == (100.0, 50.0, "TRL: a")
    assert (default.ratio, default.peer_name) == (4.0, "TRL")
    assert "a 50, b 33, c 200" in best.detail


def test_a_side_that_trains_otherwise_is_no_peer() -> None:
    sides = {"ours": side(1), "default": side(4), "a": side(1, loss=4.1), "b": side(3)}
    assert row_of(DRAFT, "best", sides, "data").peer_name == "TRL: b"
    assert row_of(DRAFT, "default", sides, "data").ratio == 4.0


@pytest.mark.parametrize("wrong", [{"loss": 4.1}, {"targets": 101}])
def test_without_agreement_there_are_no_figures(wrong: dict[str, Any]) -> None:
    sides = {"ours": side(1), "default": side(4, **wrong), "a": side(1, **wrong)}
    for what in ("best", "default"):
        row = row_of(DRAFT, what, sides, "data")
        assert row.ratio is None
        assert row.not_run is not None and row.not_run.startswith("invalid")


def test_losses_agree_to_one_in_ten_thousand() -> None:
    sums = {"loss": 1e-5, "targets": 3}
    assert disagreement(sums, sums | {"loss": 1.00009e-5}) is None
    assert disagreement(sums, sums | {"loss": 1.0002e-5}) == "losses 1e-05 and 1.0002e-05"
    assert disagreement(sums, sums | {"targets": 4}) == "3 targets and 4"


def test_every_configuration_takes_the_same_optimizer_batch_and_cuts_nothing() -> None:
    for name, options in {"default": throughput.DEFAULT, **throughput.candidates(513)}.items():
        if options.get("packing"):
            assert options["max_length"] == 1024
        else:
            assert options["per_device_train_batch_size"] * options["gradient_accumulation_steps"] == SAMPLES, name
        assert options["bf16"] is False


def test_the_fastest_candidates_that_fit_take_part() -> None:
    assert beyond_budget({"a": 9.0, "b": 8.0, "c": 10.0}) == ["c"]
    assert beyond_budget({"a": 90.0, "b": 80.0}) == ["a"]
    assert beyond_budget({"a": 1.0, "b": 2.0, "c": 3.0}) == []
