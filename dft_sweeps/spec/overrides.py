"""What may be set in a sweep spec by its dotted path: with `--set`, or with `set` in a file that extends another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import create_model

from dft_sweeps.spec import schema
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SweepSpec, TrialSpec

_Overridable = create_model("_Overridable", __base__=SweepSpec, trial=(TrialSpec, ...))
"""A sweep spec with the fields of its template."""


def names_of(path: str, place: str) -> list[str]:
    """The keys that lead to the field at a dotted path; the dotted path of an axis, or of a dimension of a search, is
    one key.

    Raises:
        SpecError: there is no such field; it is said to be at `place`.
    """
    names = path.split(".")
    if names[0] == "axes" and len(names) > 1:
        names = ["axes", path.removeprefix("axes.")]
    if names[:2] == ["search", "space"] and len(names) > 2:
        names = ["search", "space", *_dimension(names[2:])]
    if unknown := schema.unknown_element(_Overridable, names):
        raise SpecError(unknown, place)
    return names


def _dimension(names: Sequence[str]) -> list[str]:
    """``train.learning_rate`` is a dimension, of which ``train.learning_rate.low`` is a field."""
    of_trial = schema.unknown_element(TrialSpec, names) is None
    of_domain = names[-1] in schema.fields_at(SweepSpec, ("search", "space", ".".join(names[:-1])))
    return [".".join(names[:-1]), names[-1]] if of_domain and not of_trial else [".".join(names)]


def refuse_without_effect(data: dict[str, Any], path: str, place: str) -> None:
    """Refuses to set a field of the template that axes, a search or variants set again in every trial.

    Args:
        data: the spec with the field set; whatever is wrong in it is left for others to find.
    """
    variants = data.get("variants")
    listed = variants if isinstance(variants, list) else []
    sets = [variant.get("set") for variant in listed if isinstance(variant, dict)]
    search = data.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    of_axes, of_space, *of_variants = [
        set(each) if isinstance(each, dict) else set() for each in (data.get("axes"), space, *sets)
    ]
    everywhere = of_axes.union(of_space, set.intersection(*of_variants) if of_variants else ())
    for covering in sorted(everywhere):
        if f"{path}.".startswith(f"trial.{covering}."):
            instead = f"axes.{covering}=[...]" if covering in of_axes else "variants=[...]"
            instead = f"search.space.{covering}={{...}}" if covering in of_space else instead
            raise SpecError(f"has no effect, for every trial sets `{covering}` anew; set {instead} instead", place)
