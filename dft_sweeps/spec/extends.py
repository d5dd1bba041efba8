"""Spec files that extend another one: `extends` names it, and `set` changes fields of it by their dotted paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from dft_sweeps.spec.document import Document
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.overrides import names_of, refuse_without_effect
from dft_sweeps.spec.yaml_lines import shown

EXTENDS, SET = "extends", "set"
_REPLACED = ("name", "description")


def read_document(path: Path, below: Sequence[Path] = ()) -> Document:
    """The spec of a file, with the files that it extends, each changed by the one that extends it.

    Args:
        below: the files that extend this one, the first of them first.

    Raises:
        SpecError: a file that cannot be read or extends itself, or a `set` of fields that there are not or that has no
            effect; whatever else is wrong with the spec is for its models to find.
    """
    document = Document(path)
    if EXTENDS not in document.data:
        if SET in document.data:
            raise document.error((SET,), f"changes the spec file that `{EXTENDS}` names, and none is named here")
        return document
    for key in document.data:
        if key not in (EXTENDS, SET, *_REPLACED):
            raise document.error(
                (key,), f"in a file that extends another, fields are changed by `{SET}: {{{key}: ...}}`"
            )
    base = read_document(_extended(document, below), (*below, path))
    base.move(document.file)
    for key in _REPLACED:
        if key in document.data:
            base.take([key], document, (key,))
    _change(base, document)
    return base


def _extended(document: Document, below: Sequence[Path]) -> Path:
    """The file that a document extends."""
    name = document.data[EXTENDS]
    if not isinstance(name, str) or not name:
        raise document.error((EXTENDS,), f"should be the path of a spec file, found {shown(name)}")
    parent = Path(document.file).parent
    if parent.resolve() != document.directory:  # by a link: relative paths start where the file itself is
        parent = document.directory
    path = parent / os.path.expanduser(name)
    if not path.exists():
        raise document.error((EXTENDS,), f"no such spec file: {path}")
    chain = [*below, Path(document.file)]
    if path.resolve() in [each.resolve() for each in chain]:
        raise document.error((EXTENDS,), f"the file extends itself: {' extends '.join(map(str, [*chain, path]))}")
    return path


def _change(base: Document, document: Document) -> None:
    """Applies what `document` sets to the spec that it extends, in the order in which it is written."""
    changes = document.data.get(SET, {})
    if not isinstance(changes, dict):
        raise document.error((SET,), f"should be a mapping of dotted paths to values, found {shown(changes)}")
    places = {path: f"{document.place((SET, path))}: {path}" for path in changes}
    for earlier, later in combinations(changes, 2):
        if f"{earlier}.".startswith(f"{later}."):
            raise SpecError(f"has no effect, for `{later}` is set after it", places[earlier])
    for path, place in places.items():
        base.take(names_of(path, place), document, (SET, path))
    for path, place in places.items():
        refuse_without_effect(base.data, path, place)
