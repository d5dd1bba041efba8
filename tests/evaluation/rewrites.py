"""Other spellings of a gold answer that must be accepted, and near misses that must not."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from dft_sweeps.evaluation.gold_answers import Gold
from dft_sweeps.evaluation.graders.answers import Equation, Formula, Row, Several, Words, read
from dft_sweeps.evaluation.graders.latex_tree import TooDeep, Tree, Unreadable
from dft_sweeps.evaluation.graders.latex_values import far_points, real_value

_INTEGER = re.compile(r"[-+]?\d+")
_FRACTION = re.compile(r"(-?)\\frac\{?(\d+)\}?\s*\{?(\d+)\}?")
_POWER_OF_TEN = re.compile(r"(-?[\d.]+) \\times 10\^\{(-?\d+)\}")


def kind(gold: Gold) -> type | None:
    """What the gold is read as; None where only math-verify can."""
    try:
        return type(read(gold.text, gold.several))
    except (Unreadable, TooDeep):
        return None


def box(text: str) -> str:
    return f"Therefore the answer is $\\boxed{{{text}}}$."


def rewrites(gold: Gold) -> dict[str, str]:
    """Completions that give the gold in other words, by what was changed."""
    text = gold.text
    found = {
        "itself": box(text),
        "spaces": box(" " + re.sub("([=+])", r" \1 ", text) + " "),
        "thin spaces": box(f"{text}\\,"),
        "dfrac": box(re.sub(r"\\frac(?![a-z])", r"\\dfrac", text)),
        "tfrac": box(re.sub(r"\\frac(?![a-z])", r"\\tfrac", text)),
        "sizes": box(_sized(text)),
        "dollars in the box": f"So it is \\boxed{{${text}$}}",
        "full stop in the box": box(f"{text}."),
        "display": f"Hence\n\\[\n\\boxed{{{text}}}\n\\]\nand we are done.",
        "after other boxes": f"First \\boxed{{-77771}}. No: {box(text)}",
    }
    if kind(gold) in (Formula, Row):
        found["named"] = box(f"x = {text}")
    if kind(gold) is Formula:
        found["unit"] = box(f"{text} \\text{{ units}}")
        found["mathrm unit"] = box(f"{text} \\mathrm{{~cm}}")
        found["thin space and unit"] = box(f"{text}\\,\\text{{cm}}^2")
        found["quotient of units"] = box(rf"{text} \frac{{\text{{m}}}}{{\text{{s}}}}")
        found["about"] = box(rf"\approx {text}")
        found["sentence"] = f"The answer is ${text}$."
    word = re.fullmatch(r"\\text\{([A-Za-z]+)\}", text)
    if word:
        found["not as text"] = box(word[1])
    return found | _numbers(text) | _several(gold)


def _sized(text: str) -> str:
    for left, right in ("()", "[]"):
        if text.count(left) == text.count(right):
            text = text.replace(left, f"\\left{left}").replace(right, f"\\right{right}")
    return text.replace("\\\\left", "\\left").replace("\\left\\left", "\\left").replace("\\right\\right", "\\right")


def _numbers(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if _INTEGER.fullmatch(text):
        found["decimal point"] = box(f"{text}.0")
        found["fraction"] = box(rf"\frac{{{2 * int(text)}}}{{2}}")
        found["chain"] = box(rf"\frac{{{text}}}{{1}} = {text}")
        if abs(int(text)) >= 1000:
            for separator in (",", "{,}", r"\,", r",\!"):
                found[f"thousands {separator}"] = box(f"{int(text):,}".replace(",", separator))
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        value = Fraction(int(fraction[2]), int(fraction[3])) * (-1 if fraction[1] else 1)
        found["slash"] = box(f"{value.numerator}/{value.denominator}")
        if 10**9 % value.denominator == 0:
            found["decimal"] = box(str(Decimal(value.numerator) / Decimal(value.denominator)))
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        found["cdot"] = box(rf"{power[1]} \cdot 10^{{{power[2]}}}")
        found["e"] = box(f"{power[1]}e{power[2]}")
        found["another mantissa"] = box(rf"{Decimal(power[1]) * 10} \times 10^{{{int(power[2]) - 1}}}")
        found["unit of a power"] = box(rf"{text} \mathrm{{~erg}} \cdot \mathrm{{s}}^{{-1}}")
    return found


def parts(gold: Gold) -> list[str]:
    """The texts of several answers."""
    if not gold.several:
        return []
    found, level, start = [], 0, 0
    for at, character in enumerate(gold.text):
        level += (character in "([{") - (character in ")]}")
        if character == "," and level == 0:
            found.append(gold.text[start:at].strip())
            start = at + 1
    return [*found, gold.text[start:].strip()]


def _several(gold: Gold) -> dict[str, str]:
    answers = parts(gold)
    if len(answers) < 2 or kind(gold) is not Several:
        return {}
    return {
        "reversed": box(", ".join(reversed(answers))),
        "and": box(r" \text{ and } ".join(answers)),
        "set": box(r"\{" + ",".join(answers) + r"\}"),
        "boxes": ", ".join(f"$\\boxed{{{answer}}}$" for answer in answers[:-1]) + f" and $\\boxed{{{answers[-1]}}}$",
    }


def _continued(text: str) -> dict[str, str]:
    """Answers that go on behind the gold."""
    return {
        "a range": rf"{text} \text{{ to }} 987654",
        "or more": rf"{text} \text{{ or more}}",
        "two units": rf"{text} \text{{ feet }} 6 \text{{ inches}}",
        "another scale": rf"{text} \text{{ million}}",
        "words": rf"{text} \text{{ is wrong}}",
    }


def _signless(gold: Gold) -> dict[str, str]:
    """The absolute value of a gold, where the gold can be negative."""
    formula = read(gold.text, gold.several)
    if not isinstance(formula, Formula) or "|" in gold.text or not _can_be_negative(formula.tree):
        return {}
    return {"absolute value": f"|{gold.text}|", "root of the square": rf"\sqrt{{({gold.text})^2}}"}


def _can_be_negative(tree: Tree) -> bool:
    values = [real_value(tree, point) for point in (0, *far_points(("absolute", tree)))]
    return any(value is not None and value < 0 for value in values)


def other_units(gold: Gold) -> tuple[Gold, dict[str, str], dict[str, str]]:
    """A gold with a unit, completions with its unit or none, and ones with another unit of its kind."""
    with_unit = replace(gold, text=rf"{gold.text} \text{{ cm}}")
    same = (r"\text{cm}", r"\,\mathrm{cm}", r"\text{ centimeters}", r"\text{ apples}", "")
    other = (r"\text{km}", r"\,\mathrm{m}", r"\text{ inches}")
    return with_unit, *({unit: box(f"{gold.text} {unit}") for unit in units} for units in (same, other))


def perturbed(gold: Gold) -> dict[str, str]:
    """Completions that give another answer, by what was changed."""
    text = gold.text
    found: dict[str, str] = {}
    last = list(re.finditer(r"(?<![\d._^])(?<!_\{)(?<!\^\{)\d+(?![\d.]*\s*\\times)", text))
    if last:
        number = last[-1]
        found["off by one"] = f"{text[: number.start()]}{int(number.group()) + 1}{text[number.end() :]}"
    if kind(gold) is Formula and text != "0":
        found["other sign"] = text[1:] if text.startswith("-") and not re.search(r"[-+]", text[1:]) else f"-({text})"
        if not _POWER_OF_TEN.fullmatch(text):
            found["off by one as a sum"] = f"({text}) + 1"
        found["tenfold"] = f"10 \\cdot ({text})"
        found["half"] = f"\\frac{{1}}{{2}} ({text})"
        found |= _continued(text) | _signless(gold)
    exponent = re.search(r"(?<!s\})(?<!cm\})\^\{?(-?\d+)\}?", text)
    if exponent:
        found["other exponent"] = text[: exponent.start()] + f"^{{{int(exponent[1]) + 1}}}" + text[exponent.end() :]
    root = re.search(r"\\sqrt\s*\{([^{}]*)\}|\\sqrt(\d)", text)
    if root:
        found["missing root"] = text[: root.start()] + f"{{{root[1] or root[2]}}}" + text[root.end() :]
    if kind(gold) is Words:
        found["another word"] = r"\text{otherwise}"
    if kind(gold) is Equation:
        found["other equation"] = f"{text} + 1"
    answers = parts(gold)
    if len(answers) > 1:
        found["one missing"] = ", ".join(answers[1:])
        found["one too many"] = f"{text}, 987654"
    return {name: box(each) for name, each in found.items() if each != text}
