"""Which fields the models have at a dotted path, and pydantic's errors in the user's words."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dft_sweeps.spec.yaml_lines import dotted, shown

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[str | int, ...]

_SHOULD_BE = {
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "finite_number": "should be a finite number",
    "string_type": "should be text",
    "string_too_short": "should not be empty",
    "too_short": "should have at least one item",
    "tuple_type": "should be a list",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "dict_type": "should be a mapping",
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be at least {ge}",
    "less_than": "should be less than {lt}",
    "less_than_equal": "should be at most {le}",
    "literal_error": "should be {expected}",
}
"""pydantic's types of error to the user's words, with the error's own context filled in."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown `word`: the nearest valid one, or all of them."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid are {', '.join(valid)}"


def _members(annotation: Any) -> list[Any]:
    """The types that an annotation is one of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in _members(argument)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _types_at(model: type[BaseModel], path: Iterable[str | int]) -> list[Any]:
    """The types that the value at `path` may have; the tag of a union, as pydantic gives it, stays at its level."""
    found: list[Any] = [model]
    for element in path:
        inner: list[Any] = []
        for kind in found:
            if _is_model(kind) and element in kind.model_fields:
                inner += _members(kind.model_fields[element].annotation)
            elif typing.get_origin(kind) is dict:
                inner += _members(typing.get_args(kind)[1])
            elif typing.get_origin(kind) is tuple and isinstance(element, int):
                inner += _members(typing.get_args(kind)[0])
        found = inner or [kind for kind in found if element in _tags(kind)]
    return found


def _tags(kind: Any) -> tuple[str, ...]:
    """The values of `kind` by which a union knows this model."""
    known = _is_model(kind) and "kind" in kind.model_fields
    return typing.get_args(kind.model_fields["kind"].annotation) if known else ()


def fields_at(model: type[BaseModel], path: Iterable[str | int]) -> set[str]:
    """Names of the fields that the value at `path` may have; empty for a plain value or an unknown path."""
    return {name for kind in _types_at(model, path) if _is_model(kind) for name in kind.model_fields}


def takes(model: type[BaseModel], path: Sequence[str], kind: type) -> bool:
    """Whether the value at `path` may be a plain value of this kind."""
    return kind in _types_at(model, path)


def dotted_paths(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every field of a model and of the models below it, lists left out."""
    for name in sorted(fields_at(model, path)):
        yield dotted((*path, name))
        yield from dotted_paths(model, (*path, name))


def unknown_element(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """What is wrong with a path as a place to set a value: an unknown field, or one below a list or a plain value."""
    for depth, element in enumerate(path):
        origins = {typing.get_origin(kind) for kind in _types_at(model, path[:depth])}
        valid = fields_at(model, path[:depth])
        if element in valid or dict in origins:
            continue
        if tuple in origins:
            return f"`{dotted(path[:depth])}` is a list, which can only be set as a whole"
        if not valid:
            return f"`{dotted(path[:depth])}` is a plain value, so it has no field {element!r}"
        whole = difflib.get_close_matches(dotted(path), dotted_paths(model), n=1) if depth == 0 else []
        return f"unknown field {element!r}; {nearest(dotted(path), whole) if whole else nearest(element, valid)}"
    return None


def user_path(location: Path, data: Any) -> Path:
    """pydantic's location without the tags of unions, as the user would write it."""
    path: list[str | int] = []
    for element in location:
        inside = (isinstance(data, dict) and element in data) or (
            isinstance(data, list | tuple) and isinstance(element, int) and element < len(data)
        )
        if inside:
            data = data[element]
        is_tag = isinstance(data, dict) and data.get("kind") == element
        if inside or not (is_tag or element == "[key]"):
            path.append(element)
    return tuple(path)


def messages(
    error: ValidationError, model: type[BaseModel], data: Any, excused: Container[str] = ()
) -> list[tuple[Path, str]]:
    """(path, message) for every mistake that pydantic found in `data`; unknown fields first, for they explain most.

    Args:
        excused: types of error (in pydantic's terms) to leave out.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    return [(_place(detail, data), _message(detail, model)) for detail in details if detail["type"] not in excused]


def validate(model: type[Model], data: Any) -> Model:
    """`data` as a `model`, strictly: "32" is no number and true is no 1. Raises pydantic's ValidationError."""
    return model.model_validate_json(json.dumps(data), strict=True)


def _place(detail: ErrorDetails, data: Any) -> Path:
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
        tags = {tag for member in _types_at(model, detail["loc"]) for tag in _tags(member)}
        return f"needs a `kind`: {', '.join(sorted(tags))}"
    if kind == "union_tag_invalid":
        tags = {tag.strip().strip("'") for tag in context["expected_tags"].split(",")}
        return f"unknown kind {context['tag']!r}; {nearest(context['tag'], tags)}"
    if kind == "value_error":
        return str(context["error"])
    words = _SHOULD_BE.get(kind, detail["msg"]).format(**context)
    return f"{words}, found {shown(found)}"
