from __future__ import annotations

from typing import Any

from tests.bench.generation import Found, disagreement, rotated
from tests.bench.policies import fingerprint
from tests.bench.pool import pool_row

DRAFT = {"name": "pool_vs_vllm", "peer_name": "vLLM", "unit": "tokens/s", "detail": "a model"}


def found(*seconds: float, tokens: int = 1200, hash_: str = "a") -> list[Found]:
    return [{"seconds": each, "tokens": tokens, "hash": hash_} for each in seconds]


def sides(**changed: list[Found]) -> dict[str, list[Found]]:
    return {"ours": found(60, 90, 60), "vllm": found(60, 57, 57), "plain": found(50, 50, 50)} | changed


def test_the_row_has_the_rates_of_the_median_rounds() -> None:
    row = pool_row(DRAFT, "data", sides())
    assert (row.ours, row.peer) == (1200 / 60, 1200 / 57)
    assert "0.633 to 1.000" in row.detail and "without log-probabilities: 24 tokens/s" in row.detail


def test_sides_that_generate_other_tokens_give_no_figures() -> None:
    for other in (found(60, 60, 60, hash_="b"), found(60, 60, 60, tokens=1199)):
        for side in ("ours", "vllm", "plain"):
            row = pool_row(DRAFT, "data", sides(**{side: other}))
            assert row.ratio is None and (row.not_run or "").startswith("invalid")


def test_one_round_that_differs_is_noticed() -> None:
    rounds = {"one": found(1, 1) + found(1, hash_="b"), "two": found(1, 1, 1)}
    assert disagreement(rounds) is not None
    assert disagreement(rounds, same_tokens=False) is None


def test_every_side_goes_first_in_turn() -> None:
    assert [rotated(["a", "b", "c"], turn) for turn in range(3)] == [list("abc"), list("bca"), list("cab")]


def test_a_fingerprint_sees_every_token_and_where_it_is() -> None:
    same: list[Any] = [[[1, 2], [3]], [[4]]]
    others: list[Any] = [[[[1, 2], [3]], [[5]]], [[[1, 2, 3]], [[4]]], [[[1, 2]], [[3], [4]]]]
    assert fingerprint(same)["tokens"] == 4
    assert fingerprint(tuple(tuple(map(tuple, each)) for each in same)) == fingerprint(same)
    assert len({fingerprint(each)["hash"] for each in [same, *others]}) == 4
