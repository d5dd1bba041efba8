"""Pairs of answers as the strict grader sees them: equal or not, math-verify's known mistakes among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dft_sweeps.evaluation.gold_answers import Gold, clean, half_last_digit
from dft_sweeps.evaluation.graders.answers import read
from dft_sweeps.evaluation.graders.extract import last_boxed, strict_answer
from dft_sweeps.evaluation.graders.latex_tree import TooDeep, Unreadable, parse
from dft_sweeps.evaluation.graders.latex_values import TooLarge, equal
from dft_sweeps.evaluation.graders.strict import grade
from dft_sweeps.evaluation.grading import GraderPool

MISTAKEN_BY_MATH_VERIFY = [
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"1-1/\mathrm{e}", r"1+1/\mathrm{e}"),
    ("4", r"4\sqrt(2)"),
    ("f(x)=0", "g(x)=0"),
    ("0.0000001", "0.0000002"),
    ("1e-7", "2e-7"),
    (r"\{1, 2\}", r"\{1, 2.0000001\}"),
]
EQUAL = [
    ("2220", r"2\,220"),
    ("10000", "10{,}000"),
    ("10000", "10,000"),
    ("11,\\! 111,\\! 100", "11111100"),
    (r"\sqrt{1/n}", r"1/\sqrt n"),
    (r"1\frac{4}{5}", "9/5"),
    (r"137 \frac{1}{2}", "137.5"),
    (r"\frac43", "4/3"),
    (r"11\sqrt2", r"\sqrt{242}"),
    ("5", "x = 5"),
    ("5", "5 apples"),
    ("5", "5cm"),
    ("12", r"\frac{24}{2} = 12"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\lceil n / 2\rceil", r"\lfloor (n+1)/2 \rfloor"),
    (r"\frac{11+9a}{20}", r"\frac{11}{20} + 0.45 a"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\sqrt{2}", "1.4142135"),
    (r"90^\circ", "90"),
    ("62.5%", r"62.5\%"),
    ("52_8", "52_{8}"),
    (r"\text{(C)}", "C"),
    (r"\text{Evelyn}", r"\textbf{Evelyn}"),
    (r"x \in [-2,7]", "[-2,7]"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3, \infty) \cup (-\infty, 2)"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{bmatrix} 0.2 \\ -3.6 \end{bmatrix}"),
    ("1+274i", "274i + 1"),
    (r"\arcsin{1.3 \sin{\theta_w}}", r"\arcsin(1.3 \sin \theta_w)"),
    ("2^{1009}", r"2 \cdot 2^{1008}"),
    (r"k \geqslant 2", r"k \ge 2"),
    ("0", r"\sqrt{2} - \sqrt{2}"),
    (r"\sin(0.5)", r"\sin .5"),
    ("3", r"\approx 3"),
    ("x^2", r"x\,x"),
    (r"\sqrt{x^2}", "|x|"),
    (r"\frac{\sqrt{2 m E}}{\omega}", r"\frac{1}{\omega} (2 E m)^{1/2}"),
    (r"\sqrt{\frac{k}{m}}", r"\frac{\sqrt{k m}}{m}"),
    (r"\sqrt{1-x^2}", r"\sqrt{1-x} \sqrt{1+x}"),
    ("|x-5|", "|5-x|"),
    ("|x| + |y| = 1", "|y| = 1 - |x|"),
    *[(rf"\text{{{word}}}", word) for word in ("odd", "Yes", "No", "Tom", "even", "pie")],
]
DIFFERENT = [
    ("42", "4200"),
    ("13535", "13536"),
    ("2^{1009}", "2^{1009} + 1"),
    ("12345678901234567890", "12345678901234567891"),
    (r"\frac{1}{3}", "0.333"),
    ("10000001", "10000000.9"),
    ("0", "0.000000001"),
    ("2", r"2 \pi"),
    ("2", "2 pi"),
    ("3", "9 = 3"),
    ("4", "x^2 = 4"),
    ("x=5", "y=5"),
    ("(3,4]", "[3,4]"),
    ("(2,251,252)", "2251252"),
    ("52_8", "53_8"),
    (r"\lfloor n/2 \rfloor", r"\lceil n/2 \rceil"),
    (r"\text{even}", r"\text{odd}"),
    (r"\text{(C)}", "(D)"),
    ("1,-2", "1"),
    ("1", "1,-2"),
    ("-2,-2", "-2"),
    ("|x|", "x"),
    (r"\sqrt{x^2}", "x"),
    ("(x^2)^{1/2}", "x"),
    ("x^3", "|x|^3"),
    ("x y", "|x y|"),
    ("|x-5|", "5-x"),
    (r"\sqrt{(a-b)^2}", "a-b"),
    ("|f(x)|", "f(x)"),
    (r"\sqrt[4]{x^4}", "x"),
    ("|x| + |y| = 1", "x + y = 1"),
    (r"\text{odd}", "do"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    assert grade(gold, False, 0.0, answer) == (True, answer, "equal")


@pytest.mark.parametrize(("gold", "answer"), MISTAKEN_BY_MATH_VERIFY + DIFFERENT)
def test_different_both_ways(gold: str, answer: str) -> None:
    assert grade(gold, False, 0.0, answer)[0] is False
    if "=" not in answer:
        assert grade(answer, False, 0.0, gold)[0] is False


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("69, 84", True),
        ("84,69", True),
        (r"\{84, 69\}", True),
        (r"84 \text{ and } 69", True),
        ("x = 84 or x = 69", True),
        ("6984", False),
        ("69", False),
        ("69, 69", False),
        ("69, 84, 1", False),
        ("84.0, 138/2", True),
    ],
)
def test_several_answers_come_in_any_order_and_all_of_them(answer: str, correct: bool) -> None:
    assert grade("69,84", True, 0.0, answer)[0] is correct


def test_several_large_answers_may_have_thousands_separators() -> None:
    assert grade("6764,10945", True, 0.0, "10,945 and 6,764")[0] is True
    assert grade("108,135", True, 0.0, "135,108")[0] is True


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"4.5 \times 10^{33}", r"4.52 \times 10^{33}", True),
        (r"4.5 \times 10^{33}", r"45 \times 10^{32}", True),
        (r"4.5 \times 10^{33}", r"4.5 \times 10^{34}", False),
        (r"4.5 \times 10^{33}", r"4.6 \times 10^{33}", False),
        ("0.56", "0.5649", True),
        ("0.56", "0.57", False),
        ("0.56", r"0.56 \mathrm{~m} / \mathrm{s}", True),
        ("15625", "15625.3", False),
        ("-7", "7", False),
    ],
)
def test_a_measured_gold_is_met_by_what_rounds_to_it(gold: str, answer: str, correct: bool) -> None:
    assert grade(gold, False, half_last_digit(gold), answer)[0] is correct


@pytest.mark.parametrize(
    ("answer", "cleaned"),
    [
        ("4.5e33", r"4.5 \times 10^{33}"),
        ("-1.0E-05", r"-1.0 \times 10^{-5}"),
        ("np.arcsin(10/13)", r"\arcsin(10/13)"),
        ("-1./3", "-1/3"),
        ("$69$,$84$", "69,84"),
        (r"\$18.90", "18.90"),
        ("e^{t} / 3", "e^{t} / 3"),
        ("2e", "2e"),
    ],
)
def test_golds_are_cleaned(answer: str, cleaned: str) -> None:
    assert clean(answer) == cleaned
    assert Gold.of(answer).text == cleaned


@pytest.mark.parametrize("text", ["", "1 +", r"\sum_{k=1}^{n} k", r"\int x", "(1", "1)", "a > b", "1..2", "_", "{"])
def test_what_is_no_formula_is_not_guessed_at(text: str) -> None:
    with pytest.raises(Unreadable):
        parse(text)


def test_a_command_that_only_begins_like_plus_minus_is_not_one() -> None:
    with pytest.raises(Unreadable):
        read(r"\pmx + 1")


def test_bounds() -> None:
    with pytest.raises(TooDeep):
        parse("(" * 50 + "1" + ")" * 50)
    for text in ("9^{9^{9^{9}}}", "(10^{7})!", r"\binom{10^{8}}{5}", "2^{-9^{9^{9}}}", r"\exp(10^{99})"):
        with pytest.raises(TooLarge):
            equal(parse("1"), parse(text))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}.", "1, 2, 3"),
        (r"first \boxed{7}. Then $\boxed{1}$ or $\boxed{2}$", "1, 2"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{3}", "3"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"It is \boxed{18", None),
        ("#### 1,450\n", "1,450"),
        ("The answer is 18.", "18"),
        ("The answer is: $\\frac{1}{2}$ of it", r"\frac{1}{2}"),
        ("**Answer:** 3/4 cup", "3/4"),
        ("the answer is 9**9", "9**9"),
        ("the answer is (C).", "(C)"),
        ("so $x = 4$ and then 5 more", "5"),
        ("so 5, then \\(x = 4\\)", "x = 4"),
        ("The answer is **18 dollars**.", "18"),
        ("The answer is 18 dollars per day.", "18"),
        ("The answer is 18, since 9 * 2 = 18.", "18"),
        ("The answer is $18$ dollars per day.", "18"),
        ("The answer is 5 million.", "5 million"),
        ("The answer is $5$ million.", "$5$ million"),
        ("So the answer is not 7.", "not 7"),
        ("So the answer isn't $7$.", "n't $7$"),
        ("The answer is not 7 but 8.", "not 7 but 8"),
        ("I think the answer is: 3 or 4.", "3 or 4"),
        ("The answer is $3$ or $4$.", "$3$ or $4$"),
        ("The answer is 3, 4.", "3, 4"),
        ("The answer is 5:30", "5:30"),
        ("The answer is 2x.", "2x"),
        ("The answer is x + 5.", "x + 5"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert strict_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"} \boxed{4} {", "4"),
        (r"\boxed{}", ""),
        (r"\boxed 5", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(timeout_s=10.0) as pool:
        yield pool


def test_an_unreadable_gold_is_never_a_silent_zero(pool: GraderPool) -> None:
    verdict = pool.grade([(r"\frac{", r"\boxed{1}")], "strict")[0]
    assert verdict.correct is None
    assert "does not parse" in verdict.reason
