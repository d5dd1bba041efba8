"""Which fields the models have at a dotted path, and pydantic's errors in the user's words."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown `word`: the nearest valid one, or all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid are {', '.join(valid)}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models an annotation may hold: a model itself, members of a union, items of a tuple or dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _models_in(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, tuple, dict):
        return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
    return []


def fields_at(model: type[BaseModel], path: Iterable[str | int]) -> set[str]:
    """Names of the fields that the value at `path` may have; empty for a plain value or an unknown path.

    An index, the key of a dict and the tag of a union stay at the same level.
    """
    models, keyed = [model], False
    for element in path:
        owners = [owner for owner in models if element in owner.model_fields]
        if keyed or isinstance(element, int):
            keyed = False
        elif owners:
            annotations = [owner.model_fields[element].annotation for owner in owners]
            models = [inner for annotation in annotations for inner in _models_in(annotation)]
            keyed = any(typing.get_origin(annotation) is dict for annotation in annotations)
        else:
            models = [owner for owner in models if element in _tags([owner])]
    return set() if keyed else {name for owner in models for name in owner.model_fields}


def unknown_element(model: type[BaseModel], path: list[str]) -> str | None:
    """What is wrong with a dotted path as a place to set a value: an unknown field, or one below a plain value."""
    for depth, element in enumerate(path):
        valid = fields_at(model, path[:depth])
        keyed = not valid and depth > 0 and fields_at(model, [*path[:depth], element])
        if element not in valid and not keyed:
            hint = nearest(element, valid) if valid else f"`{'.'.join(path[:depth])}` has no fields"
            return f"unknown field {element!r}; {hint}"
    return None


def _tags(models: list[type[BaseModel]]) -> set[str]:
    return {
        tag
        for owner in models
        if "kind" in owner.model_fields
        for tag in typing.get_args(owner.model_fields["kind"].annotation)
    }


def user_path(location: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """pydantic's location without the tags of unions, as the user would write it."""
    path: list[str | int] = []
    for position, element in enumerate(location):
        inside = (isinstance(data, dict) and element in data) or (
            isinstance(data, list | tuple) and isinstance(element, int) and element < len(data)
        )
        if inside:
            data = data[element]
        elif isinstance(data, dict) and data.get("kind") == element and position < len(location) - 1:
            continue
        elif element == "[key]":
            continue
        path.append(element)
    return tuple(path)


def messages(error: ValidationError, model: type[BaseModel], data: Any) -> list[tuple[tuple[str | int, ...], str]]:
    """(path, message) for every mistake that pydantic found in `data`; unknown fields first, for they explain most."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    return [(_place(detail, data), _message(detail, model)) for detail in details]


def validate(model: type[Model], data: Any) -> Model:
    """`data` as a `model`, strictly: "32" is no number and true is no 1. Raises pydantic's ValidationError."""
    return model.model_validate_json(json.dumps(data), strict=True)


def _place(detail: ErrorDetails, data: Any) -> tuple[str | int, ...]:
    path = user_path(detail["loc"], data)
    return (*path, "kind") if detail["type"] == "union_tag_invalid" else path


def _message(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, found, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(detail["loc"][-1])
        return f"unknown field {name!r}; {nearest(name, fields_at(model, detail['loc'][:-1]))}"
    if kind == "missing":
        return "this field is required"
    if kind == "union_tag_not_found":
        return f"needs a `kind`: {context['discriminator']} is one of {_kinds(model, detail)}"
    if kind == "union_tag_invalid":
        return f"unknown kind {context['tag']!r}; {nearest(context['tag'], _kind_list(context['expected_tags']))}"
    if kind == "value_error":
        return str(context["error"])
    message = detail["msg"].replace("Input should be", "should be").replace("a valid array", "a list")
    return f"{message}, found {_shown(found)}"


def _kind_list(expected: str) -> list[str]:
    return [tag.strip().strip("'") for tag in expected.split(",")]


def _kinds(model: type[BaseModel], detail: ErrorDetails) -> str:
    models = [model]
    for element in detail["loc"]:
        models = [
            inner
            for owner in models
            if element in owner.model_fields
            for inner in _models_in(owner.model_fields[str(element)].annotation)
        ] or models
    return ", ".join(sorted(_tags(models)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
