"""YAML as this project reads and writes it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dft_sweeps.spec.yaml_lines import dump, parse

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
)
DATA = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<. 10-é", max_size=6), inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> Any:
    return parse(text, str)[0]


@given(DATA)
def test_what_is_written_reads_back_as_the_same(data: Any) -> None:
    found = read(dump(data))
    assert found == data
    assert repr(found) == repr(data)  # 1 and 1.0 and true are equal, but not the same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("+3", 3),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        ("1e", "1e"),
        ("~", None),
        ("True", True),
        ("{3: a, null: b, true: c}", {"3": "a", "null": "b", "true": "c"}),
    ],
)
def test_words_and_numbers(text: str, value: object) -> None:
    found = read(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["1e5", "1234e567", "010", "null", "true", "~", "3", "<<", "", " a", "a: b", "*a"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert read(dump({"revision": text, text: 1})) == {"revision": text} | {text: 1}


def test_every_value_has_the_line_it_was_written_on() -> None:
    text = "a: &shared\n  x: 1\nb:\n  <<: *shared\n  y:\n    - 2\n    - {z: 3}\nc: *shared\n"
    data, lines = parse(text, lambda line: f"line {line}")
    assert data == {"a": {"x": 1}, "b": {"x": 1, "y": [2, {"z": 3}]}, "c": {"x": 1}}
    assert lines == {
        (): "line 1",
        ("a",): "line 1",
        ("a", "x"): "line 2",
        ("b",): "line 3",
        ("b", "x"): "line 2",  # where an error in it is to be mended
        ("b", "y"): "line 5",
        ("b", "y", 0): "line 6",
        ("b", "y", 1): "line 7",
        ("b", "y", 1, "z"): "line 7",
        ("c",): "line 8",
        ("c", "x"): "line 2",
    }


def test_a_field_given_beside_a_merge_wins() -> None:
    assert read("a: &a {x: 1, y: 2}\nb:\n  x: 3\n  <<: *a\n")["b"] == {"x": 3, "y": 2}
