r"""Reads what stands behind a number: a unit, or a scale word such as "million"; anything else changes what it says.

Units are text, signs such as ``\%`` and powers. Only common units are known, so that cm and km can be told apart.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TEXTS = frozenset(r"\text \mathrm \mbox \textrm \mathbf \mathit \textbf \textit \rm \hbox \operatorname".split())  # noqa: SIM905
UNIT_SIGNS = frozenset({r"\AA", "%", r"\%", r"\degree", r"\Omega", "°"})
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

Known = tuple[tuple[str, str], ...]
"""Known units in their order, each as (kind, name)."""


class Unit(NamedTuple):
    scale: int
    """The product of the scale words before the unit."""
    known: Known


_KINDS = {
    "length": "nm nanometer nanometre/mm millimeter millimetre/cm centimeter centimetre/dm decimeter decimetre/"
    "m meter metre/km kilometer kilometre/in inch inches/ft foot feet/yd yard/mi mile",
    "mass": "mg milligram/g gram/kg kilogram/ton tonne/oz ounce/lb pound",
    "time": "ms millisecond/s sec second/min minute/h hr hour/day/week/month/yr year",
    "volume": "mL ml milliliter millilitre/L liter litre/gal gallon/pint/quart/cup",
    "angle": "deg degree/rad radian",
    "money": "cent/dollar/euro",
    "energy": "erg/J joule/kJ kilojoule/cal calorie/kcal/eV/keV/MeV/GeV",
    "power": "W watt/kW kilowatt/MW megawatt",
    "frequency": "Hz hertz/kHz/MHz/GHz",
}
_KNOWN = {
    spelling + ending: (kind, group.split()[0])
    for kind, groups in _KINDS.items()
    for group in groups.split("/")
    for word in group.split()
    for spelling, ending in ((word, ""), (word, "s" if len(word) > 1 else ""))
}
_LONGEST_SYMBOL = 3
"""Longer spellings are words, which may have capitals."""

_RELATIONS = frozenset(
    "to or nor times choose not no wrong incorrect false is isn't are was equals than if unless except otherwise but "  # noqa: SIM905
    "plus minus mod modulo half halves third thirds point divided multiplied".split()
)
_OPERATIONS = frozenset({"squared", "cubed", "factorial"})
"""Words that belong to the number where they stand first: "5 squared" is 25, "5 cm squared" is not."""
_PLAIN_UNIT = re.compile(
    r"([-+]?(?:\d[\d,]*)?(?:\.\d+|\d)(?:/\d+)?)\s*([A-Za-z](?:[A-Za-z. /']*[A-Za-z.])?)(\^?\{?\d?\}?)\s*"
)
_NO_UNITS = frozenset("e i x y z n k pi sqrt ln log sin cos tan E or and".split())  # noqa: SIM905
_WORD = re.compile(r"[A-Za-z]+(?:'t)?")
_TEXT_START = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(TEXTS)))})(?![a-zA-Z])\s*\{{")
_BARE_ROMAN = re.compile(r"\\rm\s+([A-Za-z]+)")
_CALCULATION = re.compile(r"(?<![A-Za-z0-9^{-])\d|[=<>+]")
_OUTSIDE = re.compile(
    r"(?:[\s~/.{}()\[\]%°]|\\[,;:! %]|\\(?:cdot|frac|degree|Omega|AA|mu|q?quad)(?![a-zA-Z])"
    r"|(?>\^\s*\{?\s*(?:-?\d|\\circ)\s*\}?))*+"
)


def read_unit(text: str) -> Unit | None:
    """The unit that all of a text is, or None where the text is, or may be, more than a unit."""
    inside, outside = _parts(_BARE_ROMAN.sub(r"\\rm{\1}", text))
    if not _OUTSIDE.fullmatch(outside) or _CALCULATION.search(inside):
        return None
    words = _WORD.findall(inside)
    scale = 1
    while words and (size := _scale(words[0])) is not None:
        scale *= size
        del words[0]
    if (words and words[0].lower() in _OPERATIONS) or any(map(_changes, words)):
        return None
    return Unit(scale, tuple(known for word in words if (known := _known(word)) is not None))


def with_unit_as_text(text: str) -> str | None:
    """A number with the words behind it as text, where a text is that: in ``5 apples`` the words are no product."""
    found = _PLAIN_UNIT.fullmatch(text)
    if found is None or _NO_UNITS & set(re.findall("[A-Za-z]+", found[2])):
        return None
    return rf"{found[1]} \text{{{found[2]}}}{'^' if found[3].isdigit() else ''}{found[3]}"


def continues(text: str) -> bool:
    """Whether plain words behind a number change what it says: "million", "or more"; but not "cups of tea"."""
    return any(map(_changes, _WORD.findall(text)))


def starts_scale(text: str) -> bool:
    """Whether a scale word is the first of some words."""
    first = _WORD.search(text)
    return first is not None and _scale(first.group()) is not None


def clash(first: Known, second: Known) -> bool:
    """Whether both name units of the same kinds, but not the same units."""
    return first != second and [kind for kind, _ in first] == [kind for kind, _ in second]


def _parts(text: str) -> tuple[str, str]:
    """What stands within commands for text, and what stands outside of them."""
    inside, outside, at = "", "", 0
    while start := _TEXT_START.search(text, at):
        level, end = 1, start.end()
        while level and end < len(text):
            level += (text[end] == "{") - (text[end] == "}")
            end += 1
        inside += " " + text[start.end() : end - (level == 0)]
        outside += text[at : start.start()] + " "
        at = end
    return inside, outside + text[at:]


def _changes(word: str) -> bool:
    word = word.lower()
    return word in _RELATIONS or word.endswith("n't") or _scale(word) is not None


def _scale(word: str) -> int | None:
    return SCALES.get(word.lower().removesuffix("s"))


def _known(word: str) -> tuple[str, str] | None:
    return _KNOWN.get(word if len(word) <= _LONGEST_SYMBOL else word.lower(), _KNOWN.get(word))
