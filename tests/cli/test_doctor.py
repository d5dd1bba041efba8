"""`dft-sweeps doctor`: the order of its checks, its report, and a machine that is fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dft_sweeps.cli import doctor
from dft_sweeps.cli.checks.finding import Check, Context, Finding, failed, ok, warning
from tests.end_to_end.running import run


def call(monkeypatch: pytest.MonkeyPatch, checks: list[Check], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "checks", lambda: checks)
    monkeypatch.setattr("dft_sweeps.orchestration.cluster.set_environment", lambda _: None)
    result = CliRunner().invoke(doctor.command, list(arguments), standalone_mode=False)
    assert result.exception is None, result.output
    return result.return_value, result.stdout


GOOD = Check("good", "...", lambda _: ok("fine"))
ODD = Check("odd", "...", lambda _: warning("odd", "turn it round"))
BAD = Check("bad", "...", lambda _: failed("bad", "turn it off\nand on again"))


def test_what_needs_a_failed_check_is_skipped_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Context) -> Finding:
        raise AssertionError("looked all the same")

    needy = Check("needy", "...", never, ("good", "bad"))
    later = Check("later", "...", never, ("needy",))
    code, text = call(monkeypatch, [GOOD, ODD, BAD, needy, later])
    assert code == 1
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:-1] == [
        "ok good fine",
        "warning odd odd",
        "-> turn it round",
        "failed bad bad",
        "-> turn it off",
        "-> and on again",
        "skipped needy needs bad (failed)",
        "skipped later needs needy (skipped)",
        "",
    ]
    assert lines[-1].startswith("1 ok, 1 warning, 1 failed, 2 skipped, in ")


def test_warnings_alone_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = call(monkeypatch, [GOOD, ODD, Check("needy", "...", lambda _: ok("fine"), ("odd",))], "--json")
    assert code == 0
    found = [(row["name"], row["status"], row["found"], row["advice"]) for row in json.loads(text)]
    assert found == [
        ("good", "ok", "fine", ""),
        ("odd", "warning", "odd", "turn it round"),
        ("needy", "ok", "fine", ""),
    ]


def test_checks_come_after_what_they_need() -> None:
    names: list[str] = []
    for check in doctor.checks():
        assert set(check.needs) <= set(names), check
        names.append(check.name)
    assert len(names) == len(set(names)) == 17


def test_help_says_what_the_exit_codes_mean() -> None:
    text = CliRunner().invoke(doctor.command, ["--help"]).output
    assert "1 a check failed" in text and "Example:\n    dft-sweeps doctor" in text


@pytest.mark.slow
@pytest.mark.ray
def test_this_machine_is_fit(tmp_path: Path) -> None:
    outcome = run("doctor", "--storage", str(tmp_path / "storage"))
    assert outcome.code == 0, outcome.text
    lines = [line for line in outcome.lines if line.startswith(("ok ", "warning ", "failed ", "skipped "))]
    assert len(lines) == 17, outcome.text
    # Other programs of a developer's machine may run Ray, or hold MLflow's port.
    others = ("several Ray clusters run on this machine", "is taken by another program")
    assert [line for line in lines if not line.startswith("ok ") and not any(map(line.__contains__, others))] == []
    assert "within" in lines[-1] and "nats of transformers" in lines[-1]
    assert outcome.left == [] and list(tmp_path.iterdir()) == []
