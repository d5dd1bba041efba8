"""What a search may yet propose is refused where a service does not allow it, before anything of it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.load import Sweep, load_stored
from services.allowed import Limits, refuse_forbidden
from tests.spec.example import SPEC, section

UP = "../" * 20
SOURCE = "{kind: arithmetic, samples: 320, wrong_steps: 0.1, seed: 11}"


def searched(sources: list[Path], trials: int = 3) -> Sweep:
    """A TPE search over files, of which its first round reads one alone."""
    values = [{"kind": "file", "path": str(path)} for path in sources]
    domains = [{"kind": "choice", "values": values}, {"kind": "choice", "values": list(range(1, 20))}]
    space = json.dumps(dict(zip(("data.source", "train.seed"), domains, strict=True)))
    text = SPEC.replace(section("variants"), "").replace(SOURCE, f"{{kind: file, path: {sources[0]}}}")
    search = f"search: {{kind: tpe, trials: {trials}, batch: 1, space: {space}}}\n"
    return load_stored(f"{text}\n{search}", "spec.yaml")


def test_a_file_that_a_search_may_propose_must_be_allowed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in" / "a.jsonl", tmp_path / "out" / "b.jsonl"
    limits = Limits(paths=(str(tmp_path / "in"),))
    refuse_forbidden(searched([inside, inside.with_name("c.jsonl")]), limits)
    for sources in ([inside, outside], [outside, inside]):
        sweep = searched(sources)
        assert {trial.spec.data.source.path for trial in sweep.trials} < {str(path) for path in sources}
        with pytest.raises(SpecError, match=r"search\.space\.data\.source.*outside the directories that the operator"):
            refuse_forbidden(sweep, limits)


def test_trials_that_are_to_be_proposed_count(tmp_path: Path) -> None:
    sweep = searched([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], trials=9)
    assert len(sweep.trials) == 4
    with pytest.raises(SpecError, match="36 trials; this service takes 35"):
        refuse_forbidden(sweep, Limits(paths=(str(tmp_path),), trials=35))
    refuse_forbidden(sweep, Limits(paths=(str(tmp_path),), trials=36))


@pytest.mark.parametrize("pair", [f"{UP}etc/passwd {UP}etc/nothing-here", "~root/policy ~nobody-here/policy"])
@pytest.mark.parametrize("overridden", [True, False])
def test_a_refusal_does_not_show_what_there_is(pair: str, overridden: bool) -> None:
    def refusal(path: str) -> str:
        text = SPEC if overridden else SPEC.replace("{path: embedded}", f"{{path: {path}}}")
        with pytest.raises(SpecError) as caught:
            overrides = [f"trial.model.path={path}"] if overridden else []
            refuse_forbidden(load_stored(text, "spec.yaml", overrides), Limits())
        return str(caught.value).replace(path, "PATH")

    there, nowhere = map(refusal, pair.split())
    assert there == nowhere
    assert "this one is relative" in there
