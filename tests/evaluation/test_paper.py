"""The paper's grader against a table of the published harness's verdicts, quirks included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dft_sweeps.evaluation.benchmarks import Benchmark, load_benchmark
from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.graders.extract import paper_answer
from dft_sweeps.evaluation.graders.paper_text import normal
from dft_sweeps.evaluation.grading import GraderPool
from dft_sweeps.evaluation.harness_accuracy import harness_accuracy
from dft_sweeps.spec.models import BenchmarkSpec

MEASURED = Gold("4.5 \\times 10^{33}", "4.5e33", keeps_units=True)
COLUMN = r"\begin{pmatrix} %s \\ %s \end{pmatrix}"
VERDICTS = [
    ("hundredfold", "27.0", r"\boxed{2700}", True),
    ("hundredth", "42", r"\boxed{0.42}", True),
    ("hundredth of an AIME answer", "204", r"\boxed{2.04}", True),
    ("tenfold", "42", r"\boxed{420}", False),
    ("off by one above 10,000", "13535", r"\boxed{13536}", True),
    ("off by one below 10,000", "3159", r"\boxed{3160}", False),
    ("relative difference of 1e-5", "3159", r"\boxed{3159.03159}", True),
    ("relative difference of 1e-3", "3159", r"\boxed{3162.159}", False),
    ("percent sign", "27", r"\boxed{27\%}", True),
    ("mathrm unit", "9", r"\boxed{9 \mathrm{~cm}}", False),
    ("text unit", "9", r"\boxed{9 \text{ cm}}", True),
    ("unit word", "9", r"\boxed{9 cm}", True),
    ("degrees", r"90^\circ", r"\boxed{90}", True),
    ("braces around a thousands separator", "10000", r"\boxed{10{,}000}", False),
    ("thin space as a thousands separator", "2220", r"\boxed{2\,220}", True),
    ("comma as a thousands separator", "2220", r"\boxed{2,220}", True),
    ("chain", "9", r"\boxed{\frac{9}{1} = 9}", False),
    ("short left side", "5", r"\boxed{x = 5}", True),
    ("several, as they are", "69,84", r"\boxed{69,84}", True),
    ("several, reversed", "69,84", r"\boxed{84,69}", False),
    ("several, digits joined", "69,84", r"\boxed{6984}", True),
    ("several, in boxes of their own", "69,84", r"\boxed{69} and \boxed{84}", False),
    ("point answered as an interval", "(2,4)", r"\boxed{[2,4]}", True),
    ("point", r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\pi/2)}", True),
    ("half-open interval", "(3,4]", r"\boxed{(3,5]}", False),
    ("fraction as a terminating decimal", r"\frac{1}{8}", r"\boxed{0.125}", True),
    ("fraction as three digits", r"\frac{1}{3}", r"\boxed{0.333}", False),
    ("fraction as five digits", r"\frac{1}{3}", r"\boxed{0.33333}", True),
    ("dfrac without braces", r"\frac{3}{4}", r"\boxed{\dfrac34}", True),
    ("equal formulas", r"\frac{\sqrt{3}}{3}", r"\boxed{\frac{1}{\sqrt{3}}}", True),
    ("other formula", r"\frac{\sqrt{3}}{3}", r"\boxed{\frac{2}{\sqrt{3}}}", False),
    ("polynomial, reordered", "x^3+3x-6", r"\boxed{-6+3x+x^3}", True),
    ("definition, sides exchanged", "y = 2x + 3", r"\boxed{2x + 3 = y}", False),
    ("equation, signs exchanged", "5x - 7y + 11z + 4 = 0", r"\boxed{-5x + 7y - 11z - 4 = 0}", True),
    ("matrix", COLUMN % ("1/5", "-18/5"), rf"\boxed{{{COLUMN % ('0.2', '-3.6')}}}", True),
    ("matrix, another", COLUMN % ("-2", "-14"), rf"\boxed{{{COLUMN % ('-2', '14')}}}", False),
    ("the last of two boxes", "9", r"\boxed{-77771}. Wait, correct: \boxed{9}", True),
    ("a box that never closes", "42", r"So \boxed{42", True),
    ("number of a text cut short", "8", "Each has 4 legs, so two have 8", True),
    ("any number of a text cut short", "42", "First we compute 6 x 7, which is 42. Then we add 1", False),
    ("text after the answer", "42", "The answer is 42, which we wanted to know", True),
    ("words after the answer", "42", "The answer is 42 which we wanted to know", False),
    ("digits of another script", "1139", "1\uff1139five-", True),
    ("digits of another script in a box", "12", "\\boxed{\u0661\u0662}", True),
    ("superscripts are no digits", "12", "12\u00b2", True),
    ("leading zeros", "025", r"\boxed{25}", True),
    ("number words", "5", r"\boxed{five}", True),
    ("number words in a sentence", "12", r"\boxed{twelve of them}", True),
    ("nothing written", "0", "", False),
    ("no number", "42", "I do not know", False),
    ("words", r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", True),
    ("words in another case", r"\text{even}", r"\boxed{EVEN}", True),
    ("a letter of the completion", "C", "I choose (C).", True),
    ("another letter", "C", r"So \boxed{\text{B}}", False),
    ("measured, as written", MEASURED, r"\boxed{4.5e33}", True),
    ("measured, with a power of ten", MEASURED, r"\boxed{4.5 \times 10^{33}}", False),
    ("Minerva's phrase", "42", "The final answer is $42$. I hope it is correct. \\boxed{7}", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(timeout_s=10.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def math500(shared_benchmarks: Path) -> Benchmark:
    return load_benchmark(BenchmarkSpec(name="math500", path="math500.jsonl"), shared_benchmarks)


@pytest.mark.parametrize(("gold", "completion", "correct"), [row[1:] for row in VERDICTS], ids=[r[0] for r in VERDICTS])
def test_verdict_is_the_harness_s(pool: GraderPool, gold: Gold | str, completion: str, correct: bool) -> None:
    assert pool.grade([(gold, completion)], "paper")[0].correct is correct


def test_the_two_golds_of_math500_that_cannot_be_graded(pool: GraderPool, math500: Benchmark) -> None:
    interval, east = (math500.questions[at] for at in (383, 97))
    assert (interval.answer, interval.gold.paper) == (r"x \in [-2,7]", r"x\in[-2,7]")
    right = [r"\boxed{x \in [-2,7]}", r"\boxed{[-2,7]}", r"\boxed{x\in[-2,7]}", r"\boxed{-2 \le x \le 7}"]
    assert not any(verdict.correct for verdict in pool.grade([(interval.gold, text) for text in right], "paper"))
    assert all(verdict.correct for verdict in pool.grade([(interval.gold, text) for text in right[:3]], "strict"))
    assert (east.answer, east.gold.paper) == (r"\text{east}", "")
    for text in (r"\boxed{\text{east}}", r"\boxed{\text{west}}", r"\boxed{}"):
        assert pool.grade([(east.gold, text)], "paper")[0].correct is True
        assert pool.grade([(east.gold, text)], "strict")[0].correct is ("east" in text)


def test_every_other_gold_of_math500_is_accepted_in_a_box(pool: GraderPool, math500: Benchmark) -> None:
    verdicts = pool.grade([(q.gold, f"\\boxed{{{q.answer}}}") for q in math500.questions], "paper")
    assert [q.id for q, verdict in zip(math500.questions, verdicts, strict=True) if not verdict.correct] == ["384"]


def test_no_power_of_ten_of_minerva_is_met_as_a_model_writes_it(pool: GraderPool, shared_benchmarks: Path) -> None:
    minerva = load_benchmark(BenchmarkSpec(name="minerva_math", path="minerva_math.jsonl"), shared_benchmarks)
    powers = [question for question in minerva.questions if r"\times 10^" in question.gold.text]
    items = [(question.gold, f"\\boxed{{{question.gold.text}}}") for question in powers]
    assert len(powers) == 58
    assert {verdict.correct for verdict in pool.grade(items, "paper")} == {False}
    assert {verdict.correct for verdict in pool.grade(items, "strict")} == {True}


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("  12.50 ", "12.50"),
        ("3.0", "3"),
        (".5", "0.5"),
        (r"\dfrac12", r"\frac{1}{2}"),
        ("3/4", r"\frac{3}{4}"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\left( 1, 2 \right]", "(1,2]"),
        ("two hundred five", "205"),
        ("two million three thousand", "2004003"),
        ("three point one four", "3.14"),
        ("5 apples per day", "5"),
        (r"\$32,\!348", "32,348"),
        (r"x \in [-2,7]", r"x\in[-2,7]"),
        (r"\text{east}", ""),
        ("information", r"\inftyormation"),
        ("2 and 3", "23"),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_normalisation(text: str, once: str) -> None:
    assert normal(text, keeps_units=False) == once


def test_units_stay_where_the_harness_leaves_them() -> None:
    assert (normal("9 cm", keeps_units=True), normal("9 cm", keeps_units=False)) == ("9cm", "9")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed 5$ so", "5"),
        (r"\boxed{\frac{1}{2}", r"\frac{1}{2}"),
        ("so boxed", ""),
        ("the answer is 7.\n\nNext", "7.Next"),
        ("The final answer is $3$. I hope", "3"),
        ("1,234 and -5.5 then", "-5.5"),
        ("no digits", ""),
    ],
)
def test_extraction(text: str, answer: str) -> None:
    assert paper_answer(text) == answer


def test_accuracy_is_the_mean_of_rounded_runs() -> None:
    runs = [[True, False, False], [True, True, False]]  # 2 questions, 3 samples: 100, 50 and 0 per cent
    assert harness_accuracy(runs) == 50.0
    third = [[True] * 16, [False] * 16, [False] * 16]
    assert harness_accuracy(third) == pytest.approx(33.3)  # 33.333... is rounded in every run
    mixed = [[index % 3 == question % 3 for index in range(16)] for question in range(30)]
    assert harness_accuracy(mixed) == pytest.approx(33.3)
    assert harness_accuracy([[None, True], [False, True]]) == 50.0
    with pytest.raises(ValueError, match="as many samples"):
        harness_accuracy([[True], [True, False]])
