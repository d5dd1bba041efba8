"""Options that several commands share, and what they resolve to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

storage_option: Decorator = click.option(
    "--storage",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("storage"),
    envvar="DFT_SWEEPS_STORAGE",
    show_default=True,
    show_envvar=True,
    help="Directory for checkpoints, completions, reports and, by default, MLflow's database.",
)
tracking_uri_option: Decorator = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    show_envvar=True,
    help="MLflow server or database. [default: sqlite database in --storage]",
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
set_option: Decorator = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field of the spec, e.g. trial.train.steps=20 or 'axes.train.seed=[1, 2]'; may be repeated.",
)
spec_argument: Decorator = click.argument("spec", type=click.Path(dir_okay=False, path_type=Path))


def resolve_tracking_uri(storage: Path, tracking_uri: str | None) -> str:
    """The MLflow backend to use: the one given, or a SQLite database in the storage directory."""
    return tracking_uri or f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def artifact_root(storage: Path, tracking_uri: str) -> str | None:
    """Where new experiments keep artifacts: in the storage directory, unless a server decides."""
    return None if tracking_uri.startswith(("http:", "https:")) else str(storage.resolve() / "artifacts")


def writable_storage(storage: Path) -> Path:
    """The storage directory, made if need be, as an absolute path.

    Raises:
        SpecError: it cannot be made or written to, or cannot stand in MLflow's database address.
    """
    from dft_sweeps.spec.errors import SpecError

    storage = storage.expanduser().resolve()
    if odd := sorted(set("#%?") & set(str(storage))):
        raise SpecError(f"{storage} has a {odd[0]!r}, which MLflow's database addresses cannot hold", "--storage")
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"the storage directory cannot be made: {error}", "--storage") from error
    if not os.access(storage, os.W_OK | os.X_OK):
        raise SpecError(f"{storage} cannot be written to", "--storage")
    return storage
