"""What the tests of the checks ask of a finding."""

from __future__ import annotations

from dft_sweeps.cli.checks.finding import Finding


def advised(finding: Finding, status: str, found: str, advice: str) -> None:
    assert (finding.status, found in finding.found, advice in finding.advice) == (status, True, True), finding
