"""Which models may bring code of their own: none but those that the operator names. A spec is data, and allows nothing.

Decided once, by whoever reads the spec; a trial's workers and its engines are told.
"""

from __future__ import annotations

import os

from dft_sweeps.spec.errors import SpecError

VARIABLE = "DFT_SWEEPS_TRUST_REMOTE_CODE"


def trusts(path: str) -> bool:
    """Whether the operator allows the code of the model that a spec calls so: a path, or an id of the hub."""
    return bool(path) and path in (name.strip() for name in os.environ.get(VARIABLE, "").split(","))


def refusal(name: str) -> SpecError:
    """Of a model that does not load without its own code."""
    return SpecError(
        f"the model {name} brings code of its own, which is run only where whoever operates this names the model, "
        f"exactly as the spec does, in {VARIABLE}"
    )
