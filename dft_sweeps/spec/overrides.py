"""What may be set in a sweep spec by its dotted path: with `--set`, or with `set` in a file that extends another."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from dft_sweeps.spec import schema
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SweepSpec, TrialSpec

_Overridable = create_model("_Overridable", __base__=SweepSpec, trial=(TrialSpec, ...))
"""A sweep spec with the fields of its template."""


def names_of(path: str, place: str) -> list[str]:
    """The keys that lead to the field at a dotted path; an axis' own dotted path is one key.

    Raises:
        SpecError: there is no such field; it is said to be at `place`.
    """
    names = path.split(".")
    if names[0] == "axes" and len(names) > 1:
        names = ["axes", path.removeprefix("axes.")]
    if unknown := schema.unknown_element(_Overridable, names):
        raise SpecError(unknown, place)
    return names


def refuse_without_effect(data: dict[str, Any], path: str, place: str) -> None:
    """Refuses to set a field of the template that axes or variants set again in every trial.

    Args:
        data: the spec with the field set; whatever is wrong in it is left for others to find.
    """
    variants = data.get("variants")
    listed = variants if isinstance(variants, list) else []
    sets = [variant.get("set") for variant in listed if isinstance(variant, dict)]
    of_axes, *of_variants = [set(each) if isinstance(each, dict) else set() for each in (data.get("axes"), *sets)]
    everywhere = of_axes.union(set.intersection(*of_variants) if of_variants else ())
    for covering in sorted(everywhere):
        if f"{path}.".startswith(f"trial.{covering}."):
            instead = f"axes.{covering}=[...]" if covering in of_axes else "variants=[...]"
            raise SpecError(f"has no effect, for every trial sets `{covering}` anew; set {instead} instead", place)
