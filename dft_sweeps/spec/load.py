"""From a spec file to a `Sweep`: the validated spec and its trials. Every error names file, line and path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from dft_sweeps.spec import schema, yaml_lines
from dft_sweeps.spec.document import Document, with_absolute_paths
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.expand import Arm, Trial, check_settings, expand, first_error, probes
from dft_sweeps.spec.extends import read_document
from dft_sweeps.spec.models import SweepSpec
from dft_sweeps.spec.overrides import names_of, refuse_without_effect
from dft_sweeps.spec.points import Point
from dft_sweeps.spec.rungs import check_scheduler
from dft_sweeps.spec.searches import check_sampling, points_of


@dataclass(frozen=True)
class Sweep:
    spec: SweepSpec
    trials: tuple[Trial, ...]
    """All of them, or those whose points are known, where a search proposes the others from what these show."""
    document: Document
    probes: tuple[Trial, ...] = ()
    """No trials of the sweep, but what further ones would be made of: every value that a proposal may take."""

    @property
    def to_propose(self) -> int:
        """Trials whose points are not known yet."""
        arms = {trial.arm for trial in self.trials}
        return points_of(self.spec.search) * len(arms) - len(self.trials) if self.probes else 0

    def with_points(self, proposed: Mapping[Arm, Sequence[Point]]) -> Sweep:
        """The same sweep with these points of its search beside those that its seed gives, as many for every arm."""
        return replace(self, trials=expand(self.spec, self.document, proposed))

    @property
    def directory(self) -> Path:
        """Where the spec's relative paths start."""
        return self.document.directory

    @contextmanager
    def at(self, trial: Trial, *path: str | int) -> Iterator[None]:
        """Mistakes and unreadable files met inside the block are reported where this trial's `path` is written."""
        try:
            yield
        except (SpecError, OSError) as error:
            raise trial.error(self.document, path, " ".join(str(error).split())) from error

    def resolved_yaml(self) -> str:
        """The spec with every override applied, as YAML that loads to the same sweep from any directory and extends
        no other file."""
        data = self.spec.model_dump(mode="json", exclude_defaults=True)
        return yaml_lines.dump(with_absolute_paths(data, self.directory))


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a spec file and those it extends, applies overrides (``trial.train.steps=20``) and expands it to trials.

    Raises:
        SpecError: whatever is wrong with the file, an override or a trial.
    """
    return _load(read_document(path), overrides, Path.cwd())


def load_stored(text: str, name: str, overrides: Sequence[str] = (), directory: Path | None = None) -> Sweep:
    """The sweep of a resolved spec, as `Sweep.resolved_yaml` wrote it, or of a submitted one; errors call it `name`.
    Raises as `load_sweep` does. Looks at no file but for relative paths in overrides, if there is a `directory` where
    they start: what a stranger submits is not to show what there is."""
    return _load(Document(Path(name), text), overrides, directory)


def _load(document: Document, overrides: Sequence[str], directory: Path | None) -> Sweep:
    for override in overrides:
        _apply_override(document, override, directory)
    try:
        spec = schema.validate(SweepSpec, document.data)
    except ValidationError as error:
        raise first_error(document, schema.messages(error, SweepSpec, document.data)) from error
    for override in overrides:
        refuse_without_effect(document.data, override.partition("=")[0], f"--set {override}")
    check_settings(spec, document)
    values = probes(spec, document)
    trials = expand(spec, document)
    check_scheduler(spec, document, trials)
    check_sampling(spec, document, trials[0].spec.evaluation.samplings)
    return Sweep(spec, trials, document, values if spec.search.kind == "tpe" else ())


def _apply_override(document: Document, override: str, directory: Path | None) -> None:
    path, equals, text = override.partition("=")
    place = f"--set {override}"
    if not equals or not path:
        raise SpecError("an override has the form path=value, e.g. trial.train.steps=20", place)
    document.override(names_of(path, place), text, place, directory)
