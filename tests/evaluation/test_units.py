"""What stands behind a number: a unit changes nothing, a scale word multiplies, all else makes it another answer."""

from __future__ import annotations

import pytest

from dft_sweeps.evaluation.graders.latex_tree import Continued, parse
from dft_sweeps.evaluation.graders.strict import grade
from dft_sweeps.evaluation.graders.units import read_unit

UNITS = (
    r"\text{ apples}", r"\,\text{cm}", r"\;\mathrm{cm}", r"\ \text{ cm}^2", r"\mbox{ inches}^{2}", r"\%", r"\,\%",
    r"\frac{\text{m}}{\text{s}}", r"\mathrm{~m} / \mathrm{s}", r"\mathrm{~erg} \cdot \mathrm{s}^{-1}",
    r"\text{ J}/(\text{kg K})", r"\mathrm{m\,s^{-1}}", r"\mathrm{cm^{2}}", r"\rm cm", r"^\circ\text{C}",
    r"\text{ sq. units}", r"\text{ square feet}", r"\text{ cm squared}",
    r"\text{ cups of tea}", r"\mathrm{\frac{m}{s}}", r"\text{th}", r"\text{ pints}",
    " apples", "cm", " sq. ft", " cm^2", " cm^{2}",
)  # fmt: skip
CONTINUED = (
    r"\text{ feet } 6 \text{ inches}", r"\text{ feet and }6\text{ inches}", r"\text{ to } 5", r"\text{ or more}",
    r"\text{:}30", r"\text{ times } 10", r"\text{ choose } 2", r"\text{ is wrong, it is } 6", r"\text{ R } 2",
    r"\text{ does not hold; } 5", r"\% 5", r"\mod 5", r"\text{ cm} + 3", r"\text{ cm} \approx 6", r"\text{ per } x",
    r"\text{ (out of 10)}", r"\text{ and a half}", r"\text{ squared}", r"\text{ isn't it}", r"\text{ thirds}",
    r"\text{ dollars per thousand}", r"\text{ cm}^{2} 7", " is wrong", " to 7", " R 2", " or more", " feet 6",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_changes_nothing(unit: str) -> None:
    assert grade("3", False, 0.0, f"3{unit}")[0] is True
    assert grade("3", False, 0.0, f"4{unit}")[0] is False


@pytest.mark.parametrize("rest", CONTINUED)
def test_what_goes_on_behind_a_number_is_another_answer(rest: str) -> None:
    assert grade("3", False, 0.0, f"3{rest}")[0] is False


@pytest.mark.parametrize(
    ("words", "scale"),
    [("dozen", 12), ("hundred thousand", 10**5), ("million dollars", 10**6), ("Billions", 10**9), ("trillion", 10**12)],
)
def test_a_scale_word_multiplies(words: str, scale: int) -> None:
    for answer in (rf"3 \text{{ {words}}}", f"3 {words}"):
        assert grade(str(3 * scale), False, 0.0, answer)[0] is True
        assert grade("3", False, 0.0, answer)[0] is False
    assert grade(rf"3 \text{{ {words}}}", False, 0.0, str(3 * scale))[0] is True
    assert grade(rf"3 \text{{ {words}}}", False, 0.0, "3")[0] is False


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"\text{ cm}", r"\text{ km}", False),
        (r"\text{ cm}", r"\text{ Kilometers}", False),
        (r"\text{ cm}", r"\text{ centimeters}", True),
        (r"\text{ cm}", "", True),
        ("", r"\text{ cm}", True),
        (r"\text{ cm}", r"\text{ kg}", True),  # of another kind: as little known as apples
        (r"\text{ cm}^2", r"\text{ m}^2", False),
        (r"\mathrm{~km} / \mathrm{h}", r"\frac{\text{m}}{\text{s}}", False),
        (r"\mathrm{~km} / \mathrm{h}", r"\text{ kilometers per hour}", True),
        (r"\text{ minutes}", " hours", False),
        (r"\text{ kg}", r"\text{ g}", False),
        (r"\text{ cents}", r"\text{ dollars}", False),
        (r"\text{ apples}", r"\text{ pears}", True),
    ],
)
def test_two_units_of_one_kind_are_two_answers(gold: str, answer: str, correct: bool) -> None:
    assert grade(f"9{gold}", False, 0.0, f"9{answer}")[0] is correct


def test_a_gold_that_goes_on_is_met_by_its_own_spelling_only() -> None:
    gold = r"2 \text{ hours } 30 \text{ minutes}"
    assert grade(gold, False, 0.0, r"2\text{ hours }30\text{ minutes}")[0] is True
    assert grade(gold, False, 0.0, "2.5")[0] is None
    assert grade(gold, False, 0.0, "2")[0] is None
    with pytest.raises(Continued):
        parse(gold)


def test_unbalanced_text_is_read_in_linear_time() -> None:
    assert read_unit(r"\text{a" * 100_000 + "}" * 100_000) is not None
    assert read_unit("^2}" * 100_000 + "!") is None
    assert read_unit("^ " * 100_000) is None
