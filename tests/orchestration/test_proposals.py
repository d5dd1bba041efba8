"""A TPE search proposes what its trials have shown to be good, the same whenever it is asked, and it learns something.

Optuna is real; what trains and evaluates is a formula. The loop over rounds is in test_rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from dft_sweeps.orchestration.proposals import Observation, propose
from dft_sweeps.spec.points import Point, drawn, spelling
from dft_sweeps.spec.search_models import Choice, Domain, LogUniform, TpeSearch, Uniform

SPACE: dict[str, Domain] = {
    "train.learning_rate": LogUniform(kind="log_uniform", low=1e-5, high=1e-1),
    "train.batch_size": Choice(kind="choice", values=(2, 4, 6, 8)),
    "train.objective.alpha": Uniform(kind="uniform", low=0.0, high=2.0),
}
SEARCH = TpeSearch(kind="tpe", trials=16, batch=4, seed=7, space=SPACE)


def accuracy(point: Point) -> float:
    """Best at a rate of 1e-3, rising with the batch size, and at an exponent of 1.2."""
    rate, batch = math.log10(point["train.learning_rate"]), point["train.batch_size"]
    bumps = ((rate + 3 - 0.1 * batch) / 0.8) ** 2 + ((point["train.objective.alpha"] - 1.2) / 0.7) ** 2
    return 0.1 + 0.8 * math.exp(-bumps)


def seen(points: Sequence[Point], state: str = "COMPLETE") -> list[Observation]:
    return [Observation("t", point, (), {0: 0.3, 6: accuracy(point)}, state) for point in points]  # type: ignore[arg-type]


def searched(search: TpeSearch) -> list[Point]:
    points = drawn(search.space, search.seed, search.batch)
    while len(points) < search.trials:
        points += propose(search, seen(points))
    return points


def test_a_round_is_a_function_of_what_was_seen() -> None:
    points = drawn(SPACE, 7, 4)
    first = propose(SEARCH, seen(points))
    assert first == propose(SEARCH, seen(points))
    turned = SEARCH.model_copy(update={"space": dict(reversed(SPACE.items()))})
    assert first == propose(turned, seen(points))  # the order of dimensions in the spec is none of the study's
    assert first != propose(SEARCH, [replace(each, values={6: 1 - each.values[6]}) for each in seen(points)])
    assert first == [
        {"train.learning_rate": 0.000327, "train.batch_size": 8, "train.objective.alpha": 0.141},
        {"train.learning_rate": 0.00145, "train.batch_size": 8, "train.objective.alpha": 1.01},
        {"train.learning_rate": 0.00837, "train.batch_size": 2, "train.objective.alpha": 1.51},
        {"train.learning_rate": 0.00513, "train.batch_size": 6, "train.objective.alpha": 0.141},
    ]


def test_points_are_all_different_in_the_space_and_written_as_a_table_shows_them() -> None:
    points = searched(SEARCH)
    assert len({spelling(point) for point in points}) == 16
    for point in points:
        assert list(point) == list(SPACE)
        assert point["train.batch_size"] in (2, 4, 6, 8)
        assert 1e-5 <= point["train.learning_rate"] <= 1e-1 and 0.0 <= point["train.objective.alpha"] <= 2.0
        assert all(float(f"{value:.3g}") == value for value in point.values())


def test_a_space_of_choices_is_searched_to_its_last_point() -> None:
    kinds = Choice(kind="choice", values=({"kind": "sft"}, {"kind": "dft"}, {"kind": "power", "alpha": 0.5}))
    space: dict[str, Domain] = {"train.objective": kinds, "train.batch_size": Choice(kind="choice", values=(2, 4))}
    search = TpeSearch(kind="tpe", trials=6, batch=2, space=space)
    points = drawn(space, 0, 2)
    while len(points) < 6:
        shown = [Observation("t", point, (), {6: 0.1 * point["train.batch_size"]}, "COMPLETE") for point in points]
        points += propose(search, shown)
    assert len({spelling(point) for point in points}) == 6


def test_it_finds_better_points_than_chance() -> None:
    found, chance = [], []
    for seed in range(10):
        search = SEARCH.model_copy(update={"seed": seed})
        found.append(max(map(accuracy, searched(search))))
        chance.append(max(map(accuracy, drawn(SPACE, seed, 16))))
    assert statistics.median(found) > statistics.median(chance)
    assert sum(a > b for a, b in zip(found, chance, strict=True)) >= 6


def test_failed_trials_say_nothing_and_stopped_ones_that_they_were_worse() -> None:
    """Twelve points of which the better half finished: that the others failed is no reason to shun where they were, and
    that they were stopped is one."""
    points = sorted(drawn(SPACE, 3, 12), key=accuracy)
    finished, bad = seen(points[6:]), points[:6]
    without = propose(SEARCH, [*finished, *seen(bad, "FAIL")])
    assert without != propose(SEARCH, [*finished, *seen(bad, "PRUNED")])
    nowhere = [replace(each, point={**each.point, "train.learning_rate": 1e-1}) for each in seen(bad, "FAIL")]
    assert without == propose(SEARCH, [*finished, *nowhere])


def test_diverged_trials_say_that_they_were_worst() -> None:
    """Rates above 1e-3 diverge. Points proposed from that lie lower than those from failures, which say nothing."""

    def rates(state: str) -> list[float]:
        found = []
        for seed in range(10):
            points = drawn(SPACE, seed, 12)
            high = [point for point in points if point["train.learning_rate"] > 1e-3]
            low = [point for point in points if point["train.learning_rate"] <= 1e-3]
            proposed = propose(SEARCH, [*seen(low), *seen(high, state)])
            found += [point["train.learning_rate"] for point in proposed]
        return found

    shunned, ignored = rates("DIVERGED"), rates("FAIL")
    assert statistics.median(shunned) < 0.5 * statistics.median(ignored)
    assert sum(rate > 1e-3 for rate in shunned) < 0.5 * sum(rate > 1e-3 for rate in ignored)


def test_where_all_failed_the_next_round_is_proposed_all_the_same() -> None:
    assert len(propose(SEARCH, seen(drawn(SPACE, 7, 4), "FAIL"))) == 4
