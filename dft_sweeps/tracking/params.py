"""A trial's resolved fields as MLflow params: flat, textual, and within MLflow's limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dft_sweeps.spec.errors import SpecError

MAX_KEY = 250
MAX_VALUE = 6000


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested fields to params, e.g. ``{"train": {"seed": 3}}`` to ``{"train.seed": "3"}``.

    Strings stay as they are; numbers, booleans, None, lists and empty mappings are written as JSON.
    """
    flat: dict[str, str] = {}
    for name, value in fields.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, key)
        else:
            flat[key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def check_limits(params: Mapping[str, str]) -> None:
    """Refuses what MLflow would cut short.

    Raises:
        SpecError: a name of more than 250 or a value of more than 6,000 characters.
    """
    for key, value in params.items():
        if len(key) > MAX_KEY:
            raise SpecError(f"the name has {len(key)} characters; MLflow keeps at most {MAX_KEY}", key[:60] + "...")
        if len(value) > MAX_VALUE:
            raise SpecError(f"the value has {len(value)} characters; MLflow keeps at most {MAX_VALUE}", key)
