"""From a spec file to a `Sweep`: the validated spec and its trials. Every error names file, line and path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError, create_model

from dft_sweeps.spec import schema, yaml_lines
from dft_sweeps.spec.document import Document, with_absolute_paths
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.expand import Trial, expand, first_error
from dft_sweeps.spec.models import SweepSpec, TrialSpec

_Overridable = create_model("_Overridable", __base__=SweepSpec, trial=(TrialSpec, ...))
"""A sweep spec with the fields of its template."""


@dataclass(frozen=True)
class Sweep:
    spec: SweepSpec
    trials: tuple[Trial, ...]
    document: Document

    @property
    def directory(self) -> Path:
        """Where the spec's relative paths start."""
        return Path(self.document.file).resolve().parent

    @contextmanager
    def at(self, trial: Trial, *path: str | int) -> Iterator[None]:
        """Mistakes and unreadable files met inside the block are reported where this trial's `path` is written."""
        try:
            yield
        except (SpecError, OSError) as error:
            raise trial.error(self.document, path, " ".join(str(error).split())) from error

    def resolved_yaml(self) -> str:
        """The spec with every override applied, as YAML that loads to the same sweep from any directory."""
        data = self.spec.model_dump(mode="json", exclude_defaults=True)
        return yaml_lines.dump(with_absolute_paths(data, self.directory))


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a spec file, applies overrides (``trial.train.steps=20``) and expands it to trials.

    Raises:
        SpecError: whatever is wrong with the file, an override or a trial.
    """
    document = Document(path)
    for override in overrides:
        _apply_override(document, override)
    try:
        spec = schema.validate(SweepSpec, document.data)
    except ValidationError as error:
        raise first_error(document, schema.messages(error, SweepSpec, document.data)) from error
    for override in overrides:
        _check_effect(spec, override)
    return Sweep(spec, expand(spec, document), document)


def _apply_override(document: Document, override: str) -> None:
    path, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not path:
        raise SpecError("an override has the form path=value, e.g. trial.train.steps=20", place)
    names = path.split(".")
    if names[0] == "axes" and len(names) > 1:
        names = ["axes", path.removeprefix("axes.")]  # an axis' dotted path is one key
    if unknown := schema.unknown_element(_Overridable, names):
        raise SpecError(unknown, place)
    document.override(names, text, place)


def _check_effect(spec: SweepSpec, override: str) -> None:
    """Refuses to set a field of the template that axes or variants set again in every trial."""
    path = override.partition("=")[0]
    everywhere = [{*spec.axes, *variant.set} for variant in spec.variants] or [set(spec.axes)]
    for covering in sorted(set.intersection(*everywhere)):
        if f"{path}.".startswith(f"trial.{covering}."):
            instead = f"axes.{covering}=[...]" if covering in spec.axes else "variants=[...]"
            place = f"--set {override}"
            raise SpecError(f"has no effect, for every trial sets `{covering}` anew; set {instead} instead", place)
