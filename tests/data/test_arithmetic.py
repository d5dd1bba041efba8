from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest

from dft_sweeps.data.arithmetic import LEVELS, demonstrations, problems

_STEP = re.compile(r"((?:\d+)(?:[+-]\d+)+)(?:=| is )(\d+)")


def _operands(question: str) -> tuple[int, str, int]:
    """The operation a question asks for, read from its words alone."""
    first, second = map(int, re.findall(r"\d+", question))
    if re.search(r"\d ?\+ ?\d|Add|sum|more", question):
        return first, "+", second
    return (second, "-", first) if question.startswith("Subtract") else (first, "-", second)


def _value(expression: str) -> int:
    return sum(int(term) for term in re.findall(r"-?\d+", expression.replace("+", " ")))


def _boxed(completion: str) -> int:
    (answer,) = re.findall(r"\\boxed\{(\d+)\}", completion)
    return int(answer)


def _truth(question: str) -> int:
    a, operator, b = _operands(question)
    return a + b if operator == "+" else a - b


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_problems_are_distinct_right_and_of_their_level(level: int, split: str) -> None:
    made = problems(level, 300, 3, split)
    assert len({problem.id for problem in made}) == len({problem.id.split("/")[0] for problem in made}) == 300
    for problem in made:
        a, _, b = _operands(problem.question)
        assert len(str(a)) == len(str(b)) == level + 1 and problem.level == level
        assert problem.answer == str(_truth(problem.question)) and int(problem.answer) >= 0


def test_heldout_operands_never_occur_in_training_in_either_order() -> None:
    heldout = {(op, frozenset((a, b))) for p in problems(1, 800, 0, "heldout") for a, op, b in [_operands(p.question)]}
    trained = {
        (operator, frozenset((a, b)))
        for seed in range(3)
        for question, _ in demonstrations([1], 10_000, 0.0, seed)
        for a, operator, b in [_operands(question)]
    }
    assert len(trained) > 5000
    assert not heldout & trained


def test_seed_and_level_decide_the_problems() -> None:
    assert problems(2, 20, 5, "train") == problems(2, 20, 5, "train")
    assert problems(2, 20, 5, "train") != problems(2, 20, 6, "train")
    assert problems(2, 20, 5, "train") == problems(2, 40, 5, "train")[:20]


def test_text_is_the_recorded_one() -> None:
    """Changed text must come with a new GENERATOR_VERSION (which changes these digests too)."""
    made = problems(3, 50, 1, "heldout")
    pairs = demonstrations(LEVELS, 500, 0.3, 1)
    assert hashlib.sha256(repr(made).encode()).hexdigest()[:16] == "8f52b250fe49234e"
    assert hashlib.sha256(repr(pairs).encode()).hexdigest()[:16] == "ae634b4079ced829"


def test_clean_demonstrations_are_right_at_every_step() -> None:
    for question, completion in demonstrations(LEVELS, 1500, 0.0, 2):
        steps = _STEP.findall(completion)
        assert len(steps) == len(str(_operands(question)[0]))
        assert all(_value(expression) == int(result) for expression, result in steps)
        assert _boxed(completion) == _truth(question)


def test_a_wrong_demonstration_has_one_wrong_step_that_reaches_its_answer() -> None:
    for question, completion in demonstrations(LEVELS, 1500, 1.0, 2):
        steps = _STEP.findall(completion)
        wrong = [result for expression, result in steps if _value(expression) != int(result)]
        assert len(wrong) == 1
        stated = [int(result) for _, result in steps]
        digits = [stated[-1]] + [result % 10 for result in reversed(stated[:-1])]
        assert _boxed(completion) == int("".join(map(str, digits))) != _truth(question)


def test_the_share_of_wrong_demonstrations_is_the_one_asked_for() -> None:
    pairs = demonstrations(LEVELS, 4000, 0.25, 4)
    share = sum(_boxed(completion) != _truth(question) for question, completion in pairs) / len(pairs)
    assert share == pytest.approx(0.25, abs=0.03)


def test_levels_operations_and_phrasings_are_even() -> None:
    pairs = demonstrations([1, 3], 6000, 0.0, 6)
    sizes = Counter(len(str(_operands(question)[0])) for question, _ in pairs)
    assert set(sizes) == {2, 4} and sizes[2] / 6000 == pytest.approx(0.5, abs=0.03)
    phrasings = Counter(re.sub(r"\d+", "#", question) for question, _ in pairs)
    assert len(phrasings) == 10 and max(phrasings.values()) < 1.3 * min(phrasings.values())
    styles = Counter(completion.split(":")[0][:4].rstrip("0123456789+-=\n") for _, completion in pairs)
    assert all(styles[name] / 6000 == pytest.approx(1 / 3, abs=0.03) for name in ("Ones", "From"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: problems(4, 1, 0, "train"), "unknown level 4"),
        (lambda: problems(1, 1, 0, "test"), "unknown split 'test'"),
        (lambda: problems(1, 2000, 0, "heldout"), "distinct heldout problems"),
        (lambda: demonstrations([], 1, 0.0, 0), "at least one level"),
        (lambda: demonstrations([0], 1, 0.0, 0), "unknown level 0"),
        (lambda: demonstrations([1], 1, 1.5, 0), "probability"),
    ],
)
def test_mistakes_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
