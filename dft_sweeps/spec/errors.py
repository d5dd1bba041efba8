"""The one error a user's mistake raises: what is wrong, where, and what would be right."""

from __future__ import annotations


class SpecError(ValueError):
    """A mistake in what the user gave: a spec, a file it names, a row of data, a command line.

    Commands print it as one message and exit with code 2. `where` is as exact as is known, e.g.
    ``quickstart.yaml:14: trial.train.learning_rate``.
    """

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message)
