"""The points of a sweep's search that its seed alone gives, and what is wrong with its space."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from dft_sweeps.spec import schema
from dft_sweeps.spec.document import Document
from dft_sweeps.spec.models import SweepSpec, TrialSpec
from dft_sweeps.spec.points import Point, TooFewPoints, drawn
from dft_sweeps.spec.schema import Path
from dft_sweeps.spec.search_models import Choice, Domain, GridSearch, Search, TpeSearch


def space_of(search: Search) -> Mapping[str, Domain]:
    return {} if isinstance(search, GridSearch) else search.space


def points_of(search: Search) -> int:
    """Points of every arm, in all; a grid is a space of no dimension."""
    return 1 if isinstance(search, GridSearch) else search.trials


def round_of(search: Search) -> int:
    """Points of every arm that are known at a time."""
    return search.batch if isinstance(search, TpeSearch) else points_of(search)


def first_points(search: Search, document: Document) -> list[Point]:
    """The points that the seed gives, the same for every arm: all of a random search, the first batch of a TPE.

    Raises:
        SpecError: the space has too few.
    """
    if isinstance(search, GridSearch):
        return [{}]
    try:
        points = drawn(search.space, search.seed, search.trials)
    except TooFewPoints as error:
        raise document.error(("search", "trials"), str(error)) from error
    return points[: search.batch] if isinstance(search, TpeSearch) else points


def centre(search: Search) -> Point:
    """One point of the space, the same for all: the first that its seed gives."""
    return {} if isinstance(search, GridSearch) else drawn(search.space, search.seed, 1)[0]


def extremes(search: Search) -> Iterator[tuple[str, Any, Path]]:
    """Path, value and its place: every value of a choice, and both ends of every other dimension."""
    for path, domain in space_of(search).items():
        place: Path = ("search", "space", path)
        if isinstance(domain, Choice):
            yield from ((path, value, (*place, "values", index)) for index, value in enumerate(domain.values))
        else:
            yield from ((path, value, (*place, end)) for end, value in (("low", domain.low), ("high", domain.high)))


def check_space(spec: SweepSpec, document: Document) -> None:
    """Refuses what no value of a dimension could put right. That its paths are fields, the caller has checked.

    Raises:
        SpecError: a path that an axis or a variant sets, a range for what is no number, or a value given twice.
    """
    for path, domain in space_of(spec.search).items():
        place: Path = ("search", "space", path)
        for index, variant in enumerate(spec.variants):
            if path in variant.set:
                there = f"`variants[{index}]` sets {path} too"
                raise document.error(
                    place, f"{there}; a search draws it for every variant, so set it in one of the two"
                )
        if path in spec.axes:
            raise document.error(place, f"`axes` has {path} too; it is an axis, or a dimension of the search")
        if isinstance(domain, Choice):
            _check_values(domain, place, document)
        elif not schema.takes(TrialSpec, path.split("."), float):
            listed = "whole numbers" if schema.takes(TrialSpec, path.split("."), int) else "no numbers"
            raise document.error((*place, "kind"), f"{path} takes {listed}; list values in a choice")


def check_sampling(spec: SweepSpec, document: Document, samplings: Collection[str]) -> None:
    """Args: `samplings`: the names of those there are. Raises SpecError where the search learns from another."""
    sampling = spec.search.sampling if isinstance(spec.search, TpeSearch) else None
    if sampling is not None and sampling not in samplings:
        raise document.error(("search", "sampling"), f"no sampling {sampling!r}; {schema.nearest(sampling, samplings)}")


def check_size(spec: SweepSpec, document: Document, arms: int, most: int) -> None:
    """Refuses a search of more than so many trials, or of so many values, over all its arms."""
    trials, values = arms * points_of(spec.search), arms * sum(1 for _ in extremes(spec.search))
    of_arms = f" for each of {arms:,} combinations of axes and variants" if arms > 1 else ""
    if trials > most:
        message = f"{points_of(spec.search):,} points{of_arms}; at most {most:,} trials are planned"
        raise document.error(("search", "trials"), message)
    if values > most:
        raise document.error(("search", "space"), f"{values // arms:,} values{of_arms}; at most {most:,} are checked")


def _check_values(domain: Choice, place: Path, document: Document) -> None:
    spellings = [json.dumps(value, sort_keys=True) for value in domain.values]
    for index, spelling in enumerate(spellings):
        if spelling in spellings[:index]:
            raise document.error((*place, "values", index), f"the value {spelling} is given twice")
