"""What every model of the spec language is built on."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class SpecModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", value):
        raise ValueError(
            f"{value!r} cannot be a name: at most 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
        )
    return value


def _path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError(f"{value!r} names no file or directory")
    return value


Name = Annotated[str, AfterValidator(_name)]
PathName = Annotated[str, AfterValidator(_path)]
