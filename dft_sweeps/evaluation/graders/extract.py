r"""Finds the answer in a completion, in time linear in its length, for the graders; it only cuts text.

`strict_answer`: the last closed ``\boxed``, with the boxes that commas or conjunctions join to it, or else what
follows the last ``####`` or "answer is", or else the last formula or number. A completion whose only box was
never closed has no answer. `paper_answer`: the published harness's rules, in their order.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from dft_sweeps.evaluation.graders.units import continues, starts_scale

_BRACES = re.compile(r"\\(?:boxed|fbox)\s?\{|[{}]")
_JOINT = re.compile(r"[\s$.]*(?:,|;|&|and|or|,\s*and|,\s*or)[\s$]*")
_MOST_BOXES = 16
_ANSWER = re.compile(r"\banswer(?:\s+is|\s*:|\s*=)\**\s*:?[ \t]*", re.IGNORECASE)
_SENTENCE = re.compile(r"[^\n]*?(?=\.(?:\s|$)|\n|$)")
_MATH = re.compile(r"\$\$?([^$]{1,512})\$\$?|\\\((.{1,512}?)\\\)|\\\[(.{1,512}?)\\\]", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:/\d+)?%?|(?<![\w.])[-+−]?\.\d+")
_CONTINUED = re.compile(r"\s*[*^!(+/×]|\s-\s?\d|[A-Za-z_]")
_UNSURE = re.compile(r"\b(?:not|never|no|neither|between|least|most|than)\b|n't\b|[-+*/^<>≤≥]\s*$", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r"[,;(]\s*+(?!(?:and|or|but|not)\b|[-+−$\\]*[\d.])|(?<![A-Za-z])(?:because|since|as|so|which)(?![A-Za-z])|$"
)
_MORE = re.compile(r"[\d$\\=<>+*^:]")
_ANOTHER = re.compile(r"\s*(?:,\s*)?(?:(?:and|or|to|but|times|not)\s+)*(?:[-+−]?\s?\d|\$|\\\()")
_LONGEST_PHRASE = 64
_LONGEST_SENTENCE = 512
_FINAL_NUMBER = re.compile(r"-?\d*\.?\d+")


def last_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` whose braces are balanced, or None; one pass over the text."""
    boxes = _boxes(text)
    return None if not boxes else text[boxes[-1][1] : boxes[-1][2]]


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """(start, start of content, end of content) of every balanced box, by their starts."""
    open_boxes: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int]] = []
    for brace in _BRACES.finditer(text):
        if brace.group() != "}":
            open_boxes.append((brace.start(), brace.end()) if len(brace.group()) > 1 else None)
        elif open_boxes:
            start = open_boxes.pop()
            if start is not None:
                found.append((*start, brace.start()))
    return sorted(found)


def strict_answer(text: str) -> str | None:
    """The answer as the strict grader reads it, or None where there is none."""
    boxes = _boxes(text)
    if boxes:
        return _joined_boxes(text, boxes)
    if _BRACES.search(text) and "\\boxed" in text:
        return None
    marked = text.rpartition("####")[2].strip().partition("\n")[0].strip() if "####" in text else ""
    if marked:
        return marked
    anchors = list(_ANSWER.finditer(text))
    if anchors:
        phrase = _phrase(text, anchors[-1].end())
        if phrase:
            return phrase
    return _last_formula(text)


def _joined_boxes(text: str, boxes: list[tuple[int, int, int]]) -> str:
    joined = [text[boxes[-1][1] : boxes[-1][2]]]
    for (_, _, end), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        previous = boxes[len(boxes) - 1 - len(joined)]
        if not 0 <= start - end - 1 <= 24 or len(joined) == _MOST_BOXES or not _JOINT.fullmatch(text, end + 1, start):
            break
        joined.append(text[previous[1] : previous[2]])
    return ", ".join(reversed(joined))


def _phrase(text: str, start: int) -> str | None:
    """What an "answer is" announces: its formula, or its number, or its few words.

    A formula or number that is denied before, or that goes on behind ("3 or 4", "5 million"), is not the answer
    alone: then it is the whole sentence.
    """
    sentence = _SENTENCE.match(text, start)
    phrase = sentence.group().strip() if sentence else ""
    formula = _MATH.search(text, start, start + len(phrase) + 600)
    if formula and formula.start() <= start + len(phrase):
        rest = _SENTENCE.match(text, formula.end())
        behind = rest.group() if rest else ""
        whole = text[start : formula.end()] + behind
        if _UNSURE.search(text, start, formula.start()) or _ANOTHER.match(behind) or starts_scale(behind):
            return whole.strip() if len(whole) <= _LONGEST_SENTENCE else None
        return _content(formula)
    phrase = phrase.strip("*_ ")
    number = _NUMBER.search(phrase)
    if number and not _CONTINUED.match(phrase, number.end()):
        if not _UNSURE.search(phrase, 0, number.start()) and _is_unit(phrase[number.end() :]):
            return number.group()
        return phrase if len(phrase) <= _LONGEST_SENTENCE else None
    return phrase if len(phrase) <= _LONGEST_PHRASE else None


def _is_unit(behind: str) -> bool:
    """Whether the words behind a number, up to the end of their clause, can be its unit."""
    end = _CLAUSE_END.search(behind)
    assert end is not None
    clause = behind[: end.start()]
    return _MORE.search(clause) is None and not continues(clause)


def _last_formula(text: str) -> str | None:
    formula = _last(_MATH.finditer(text))
    number = _last(_NUMBER.finditer(text, formula.end() if formula else 0))
    if number is not None:
        return number.group()
    return None if formula is None else _content(formula)


def _last(found: Iterator[re.Match[str]]) -> re.Match[str] | None:
    last = deque(found, maxlen=1)
    return last[0] if last else None


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def paper_answer(text: str) -> str:
    """The answer before normalisation as the published harness extracts it; empty where it finds none."""
    text = text.replace("\N{CYRILLIC SMALL LETTER KA}\N{CYRILLIC SMALL LETTER I}", "")
    if "final answer is $" in text and "$. I hope" in text:
        found = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0].strip()
    elif "boxed" in text:
        found = _harness_box(text.rpartition("boxed")[2])
    elif "he answer is" in text:
        found = text.rpartition("he answer is")[2].strip()
    elif "final answer is" in text:
        found = text.rpartition("final answer is")[2].strip()
    elif "答案是" in text:
        found = text.split("答案是")[1].strip().split("\n\n")[0].strip()
    else:
        found = (_FINAL_NUMBER.findall(text.replace(",", "")) or [""])[-1]
    found = re.sub(r"\n\s*", "", found).removeprefix(":").removesuffix(".").removesuffix("/")
    return found


def _harness_box(rest: str) -> str:
    """Content of a box that may never close: then it is all that follows."""
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    level = 0
    for brace in re.finditer(r"[{}]", rest):
        level += 1 if brace.group() == "{" else -1
        if level == 0:
            return rest[1 : brace.start()]
    return rest[1:]


def paper_choice(text: str) -> str:
    """The letter that the harness takes from a whole completion where the gold is one of A to E."""
    cleaned = text.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = re.findall(r"\b([ABCDE])\b", cleaned.upper())
    return (letters[-1] if letters else cleaned.strip().strip(".")).rstrip(".").rstrip("/")
