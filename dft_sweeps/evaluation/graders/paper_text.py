r"""How the published harness (the Qwen2.5-Math evaluation) spells an answer before it compares it, quirks included.

Written after its behaviour, for verdicts that stand beside the published ones; each oddity is the harness's: "east"
and single letters are units, "inf" inside any word is \infty, a number word hidden in a text is the number.
"""

from __future__ import annotations

import re

_UNITS = (  # noqa: SIM905
    "east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|"
    "gm|p . m|lb|tile|per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|"
    "soldier|pie|bc|excess|st|inches|noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|"
    "toy|coin|sq . m|gallon|° f|profit|minw|yr|women|feet|am|pm|hr|cu cm|square|v â € ™|are|rupee|"
    "rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|woman|sec|cube|mt|sq inch|"
    "mp|∏ cm ³|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|yard|"
    "pure|year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch"
).split("|")
"""The harness's unit words, in its order; a point stands for any character, as in its patterns."""

_UNIT_PATTERNS = [
    (unit.partition(".")[0], re.compile(rf"(^|\W){unit}($|\W)")) for unit in (*_UNITS, *(unit + "s" for unit in _UNITS))
]
_PREFIXES = [f"{name}{sign}" for sign in ("=", r"\in", r"\to") for name in "xyz"]
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NUMBER_WORDS = {word: number for number, word in enumerate(f"{_ONES} seventeen eighteen nineteen".split())}
_NUMBER_WORDS |= {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)  # noqa: SIM905
}
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 1000}
_VALUES = {**_NUMBER_WORDS, **_SCALES, "hundred": 100}
_ALL_NUMBER_WORDS = {*_VALUES, "point"}


def normal(text: str, keeps_units: bool) -> str:
    """One pass of the harness's normalisation; golds get one, predictions get two."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text)
    text = re.sub(r"\\end\{array\}", r"\\end{pmatrix}", text).replace("bmatrix", "pmatrix")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for long in (r"\neq", r"\leq", r"\geq"):
        text = text.replace(long, long[:-1])
    for size, short in ((r"\left", ""), (r"\right", ""), (r"\{", "{"), (r"\}", "}")):
        text = text.replace(size, short)
    text = re.sub(r"\\text{.*?}$", "", text).strip() or text
    if not keeps_units:
        text = _without_units(text)
    for sign in (r"^{\circ}", r"^\circ", r"\$", "$", r"\(", r"\)"):
        text = text.replace(sign, "")
    text = re.sub(r"\\text\{(.*?)\}", r"\1", _number_word(text))
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    text = text.replace(r"\emptyset", "{}").replace(r"(-\infty,\infty)", r"\mathbb{R}")
    text = text.replace(r"\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    return _compact(_infinity(text))


def _without_units(text: str) -> str:
    for _ in range(2):
        for needle, pattern in _UNIT_PATTERNS:
            if needle in text:
                text = pattern.sub(r"\1\2", text) or text
    return text


def _infinity(text: str) -> str:
    text = text.replace("infinity", r"\infty")
    if r"\infty" not in text:
        text = text.replace("inf", r"\infty")
    return text.replace(r"+\inity", r"\infty")


def _compact(text: str) -> str:
    text = re.sub(r"\\mbox{.*?}", "", text.replace("and", "").replace(r"\mathbf", ""))
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = re.sub(r"(\d+)\.0*$", r"\1", re.sub(r"(\d+)\.0*([^\d])", r"\1\2", text))
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    return _slash(_fractions(text))


def _fractions(text: str) -> str:
    r"""Braces for the arguments of every \frac; nothing changes where one has fewer than two characters after it."""
    first, *rest = text.split(r"\frac")
    parts = [first]
    for part in rest:
        if part.startswith("{"):
            parts.append(part)
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            parts.append(f"{{{part[0]}}}{part[1:]}")
        else:
            parts.append(f"{{{part[0]}}}{{{part[1]}}}{part[2:]}")
    return r"\frac".join(parts)


def _slash(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        upper, lower = (side if "sqrt" in side else str(int(side)) for side in sides)
    except ValueError:
        return text
    return rf"\frac{{{upper}}}{{{lower}}}" if text == f"{upper}/{lower}" else text


def _number_word(text: str) -> str:
    """The number whose words a text contains, as digits; a text without such words stays as it is."""
    spaced = text.replace("-", " ").lower()
    try:
        if spaced.isdigit():
            return str(int(spaced))
        words = [word for word in spaced.split() if word in _ALL_NUMBER_WORDS]
        return str(_words_value(words)) if words else text
    except (ValueError, IndexError, TypeError):
        return text


def _words_value(words: list[str]) -> int | float:
    """What the package that the harness uses makes of number words; malformed ones raise as there."""
    if any(words.count(word) > 1 for word in (*_SCALES, "point")):
        raise ValueError("a scale occurs twice")
    whole, decimals = words, list[str]()
    if "point" in words:
        whole, decimals = words[: words.index("point")], words[words.index("point") + 1 :]
    places = [whole.index(scale) for scale in _SCALES if scale in whole]
    if places != sorted(places):
        raise ValueError("the scales are out of order")
    total: int | float = 0
    if len(whole) == 1:
        total = _VALUES[whole[0]]
    elif whole:
        start = 0
        for scale, size in _SCALES.items():
            if scale in whole:
                total += _group_value(whole[start : whole.index(scale)]) * size
                start = whole.index(scale) + 1
        total += _rest_value(whole)
    if decimals and all(_NUMBER_WORDS.get(word, 10) < 10 for word in decimals):
        total += float("0." + "".join(str(_NUMBER_WORDS[word]) for word in decimals))
    elif decimals:
        total += 0
    return total


def _rest_value(words: list[str]) -> int:
    """The words behind the last scale; where that is the last word, those behind the scale before it, once more."""
    scales = [scale for scale in reversed(_SCALES) if scale in words]
    if not scales:
        return _group_value(words)
    behind = (words[words.index(scale) + 1 :] for scale in scales)
    return next((_group_value(rest) for rest in behind if rest), 0)


def _group_value(words: list[str]) -> int:
    values = [_VALUES[word] for word in words]
    if len(values) == 4:
        return values[0] * values[1] + values[2] + values[3]
    if len(values) == 3:
        return values[0] * values[1] + values[2]
    if len(values) == 2:
        return values[0] * values[1] if 100 in values else values[0] + values[1]
    return values[0]
