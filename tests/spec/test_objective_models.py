"""A spec's objectives are those there are, with the fields and the defaults of their functions."""

from __future__ import annotations

import inspect
import typing

import pytest
from pydantic import TypeAdapter

from dft_sweeps.objectives import OBJECTIVES
from dft_sweeps.spec.models import IwSftObjective, Objective

MODELS = {
    typing.get_args(model.model_fields["kind"].annotation)[0]: model
    for model in typing.get_args(typing.get_args(Objective)[0])
}


def test_every_objective_can_be_named() -> None:
    assert MODELS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("kind", MODELS)
def test_fields_and_defaults_are_the_functions(kind: str) -> None:
    required = {"alpha": 0.5} if kind == "power" else {}
    fields = TypeAdapter(Objective).validate_python({"kind": kind} | required).model_dump(exclude={"kind"})
    parameters = inspect.signature(OBJECTIVES[kind]).parameters
    assert fields.keys() == parameters.keys()
    for name, parameter in parameters.items():
        if parameter.default not in (inspect.Parameter.empty, None):
            assert fields[name] == parameter.default
    assert OBJECTIVES[kind](**fields).loss


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({}, (0.0, 16.0)),
        ({"level": "token"}, (0.2, 1.8)),
        ({"level": "token", "high": 4.0}, (0.2, 4.0)),
        ({"level": "trajectory", "low": 0.5}, (0.5, 16.0)),
    ],
)
def test_bounds_of_ratios_follow_their_level(fields: dict, bounds: tuple[float, float]) -> None:
    found = IwSftObjective.model_validate({"kind": "iw_sft"} | fields)
    assert (found.low, found.high) == bounds
    assert IwSftObjective.model_validate(found.model_dump()) == found
