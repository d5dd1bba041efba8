"""Points of a search's space, drawn from its seed. A pure function of the space: nothing is stored, and a value depends
on the seed, its path and the number of its point alone, so that neither a further dimension nor further points change
what was drawn before."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dft_sweeps.spec.search_models import Choice, Domain, LogUniform, Uniform

Point = dict[str, Any]
"""Dotted path to value, for every path of a space."""
DIGITS = 3
"""Significant digits of a drawn number: what a table shows is what was trained."""
_ATTEMPTS = 200
"""Draws of one point that all bring points drawn before."""


class TooFewPoints(ValueError):
    """A space does not hold as many different points as are asked for."""


def drawn(space: Mapping[str, Domain], seed: int, count: int) -> list[Point]:
    """`count` different points. A point that was drawn already is drawn anew, and others stay as they are.

    Raises:
        TooFewPoints: there are fewer, once numbers are rounded.
    """
    if (size := points_in(space)) is not None and size < count:
        raise TooFewPoints(f"{count} points of a space of {size}; give a dimension more values, or ask for fewer")
    points: dict[str, Point] = {}
    for number in range(count):
        point = another(space, seed, number, points.keys())
        points[spelling(point)] = point
    return list(points.values())


def another(space: Mapping[str, Domain], seed: int, number: int, taken: Collection[str]) -> Point:
    """The point of this number, whose `spelling` is none of those taken. Raises as `drawn`."""
    for attempt in range(_ATTEMPTS):
        point = {path: _value(domain, seed, path, number, attempt) for path, domain in space.items()}
        if spelling(point) not in taken:
            return point
    left = [point for point in _all(space) if spelling(point) not in taken]
    if not left:
        raise TooFewPoints(
            f"numbers are drawn with {DIGITS} significant digits, and {_ATTEMPTS} draws brought no point that is not "
            f"among the first {len(taken)}; widen a dimension, or ask for fewer"
        )
    return left[int(len(left) * _share(seed, "", number, 0))]


def spelling(point: Mapping[str, Any]) -> str:
    """The same for equal points, whose values may be mappings."""
    return json.dumps(dict(sorted(point.items())), sort_keys=True)


def points_in(space: Mapping[str, Domain]) -> int | None:
    """How many points a space of choices has; None where a dimension is a range of numbers."""
    sizes = [len(domain.values) if isinstance(domain, Choice) else None for domain in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def rounded(domain: Uniform | LogUniform, value: float) -> float:
    """`value` with three significant digits, and within the domain."""
    return min(max(float(f"{value:.{DIGITS}g}"), domain.low), domain.high)


def _value(domain: Domain, seed: int, path: str, number: int, attempt: int) -> Any:
    share = _share(seed, path, number, attempt)
    if isinstance(domain, Choice):
        return domain.values[int(len(domain.values) * share)]
    if isinstance(domain, Uniform):
        return rounded(domain, domain.low + share * (domain.high - domain.low))
    low, high = math.log(domain.low), math.log(domain.high)
    return rounded(domain, math.exp(low + share * (high - low)))


def _share(seed: int, path: str, number: int, attempt: int) -> float:
    """Uniform in [0, 1). Python seeds a generator with a text by its SHA-512, in every version alike."""
    return random.Random(f"{seed} {path} {number} {attempt}").random()


def _all(space: Mapping[str, Domain]) -> Iterator[Point]:
    """Every point of a space of choices; none of any other."""
    choices: list[Collection[Any]] = [domain.values if isinstance(domain, Choice) else () for domain in space.values()]
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*choices))
