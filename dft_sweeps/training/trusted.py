"""Which models may bring code of their own: none but those that the operator names. A spec is data, and allows nothing.

Decided once, by whoever reads the spec; a trial's workers and its engines are told.
"""

from __future__ import annotations

import os

from dft_sweeps.spec.errors import SpecError

VARIABLE = "DFT_SWEEPS_TRUST_REMOTE_CODE"


def trusts(path: str) -> bool:
    """Whether the operator allows the code of the model that a spec calls so: an id of the hub, or a directory, which a
    stored spec calls by its real path."""
    named = {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}
    return path in named or (os.path.isdir(path) and os.path.realpath(path) in map(os.path.realpath, named))


def refusal(name: str) -> SpecError:
    """Of a model that does not load without its own code."""
    return SpecError(
        f"the model {name} brings code of its own, which is run only where whoever operates this names the model "
        f"in {VARIABLE}: the same directory, or the same id of the hub"
    )
