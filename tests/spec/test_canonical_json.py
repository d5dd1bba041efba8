"""One spelling for every value, or none at all: what is hashed must not depend on how it came about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.identity import canonical_json, digest


@pytest.mark.parametrize(
    "value",
    [{1, 2}, math.nan, math.inf, -math.inf, object(), b"a", {1: "a"}, {None: 1}, {"a": [1, {"b": {2}}]}, 1j, Path()],
)
def test_values_without_a_stable_spelling_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^\$"):
        canonical_json(value)
    with pytest.raises(TypeError):
        digest([value])


def test_refusals_say_where() -> None:
    with pytest.raises(TypeError, match=r"^\$\.a\[1\]\.b: a set has no stable serialisation$"):
        canonical_json({"a": [1, {"b": {2}}]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_canonical_json_does_not_depend_on_order_or_kind_of_sequence(value: Any) -> None:
    def turned(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: turned(part[key]) for key in reversed(part)}
        if isinstance(part, list):
            return tuple(turned(item) for item in part)
        return float(part) if type(part) is int and abs(part) < 2**53 else part

    assert canonical_json(turned(value)) == canonical_json(value)
    assert canonical_json(value).isascii()


def test_canonical_json_tells_apart_what_is_not_the_same() -> None:
    values = [0, 1, True, False, None, "", "1", "null", [], {}, [1], [[1]], {"a": 1}, 0.1, "0.1", 1e-9, -1]
    assert len({canonical_json(value) for value in values}) == len(values)
    assert canonical_json({"b": 1.0, "a": [1e-3, "é"]}) == '{"a":[0.001,"\\u00e9"],"b":1}'
