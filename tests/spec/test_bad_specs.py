"""Every mistake in a spec is one message that says where it is, what is wrong and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import load_sweep
from tests.spec.bad_specs import BAD_OVERRIDES, BAD_SPECS, Bad
from tests.spec.example import edited, write


def refusal(path: Path, *overrides: str) -> str:
    """The one message that loading a spec ends with."""
    with pytest.raises(SpecError) as caught:
        load_sweep(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


@pytest.mark.parametrize("bad", BAD_SPECS.values(), ids=BAD_SPECS)
def test_bad_spec(bad: Bad, tmp_path: Path) -> None:
    path = write(tmp_path, edited(bad.old, bad.new))
    message = refusal(path)
    place = f"{path}:{bad.line}: " if bad.line else str(path)
    assert message.startswith(f"{place}{bad.path}: " if bad.path else place)
    assert message.count(str(path)) == 1
    assert bad.words in message


def test_the_spec_that_all_are_made_from_is_good(tmp_path: Path) -> None:
    assert len(load_sweep(write(tmp_path)).trials) == 8


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    assert refusal(path) == f"{path}: no such spec file"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert refusal(path) == f"{path}: not UTF-8 text (invalid start byte at byte 0)"
    path.write_bytes(b"name: stu\x00dy\n")
    assert refusal(path) == f"{path}:1: the character U+0000 is not text"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert refusal(path / "study.yaml") == f"{path}/study.yaml: cannot be read: Not a directory"


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_bad_override(override: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path), override)
    assert message.startswith(f"--set {override}: ")
    assert BAD_OVERRIDES[override] in message


def test_a_mistake_beside_an_override_is_where_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, edited("batch_size: 32", "batch_size: 0"))
    assert refusal(path, "trial.train.steps=20").startswith(f"{path}:12: trial.train.batch_size: ")
    assert refusal(write(tmp_path), "trial.train.epochs=2").startswith(f"{path}:9: trial.train: give one of")
    assert load_sweep(path, ["trial.train.batch_size=8"]).trials[0].spec.train.batch_size == 8


def test_an_override_that_every_variant_sets_again_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, edited("- name: noisy\n", "- name: noisy\n    set: {data.source.wrong_steps: 0.2}\n"))
    message = refusal(path, "trial.data.source.wrong_steps=0.5")
    assert message.endswith("every trial sets `data.source.wrong_steps` anew; set variants=[...] instead")
    assert load_sweep(write(tmp_path), ["trial.data.source.wrong_steps=0.5"]).trials[0].name.startswith("noisy")
