"""What the Makefile makes of the environment, and says of a missing Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_where_pip_finds_wheels_so_does_uv() -> None:
    show = ("--eval", "show: ; @echo $$UV_FIND_LINKS, '$(TORCH)'", "show")
    assert make(*show, PIP_FIND_LINKS="/a  https://b/c\t/d ").stdout == "/a,https://b/c,/d, \n"
    assert make(*show, PIP_FIND_LINKS="/a", UV_FIND_LINKS="/mine").stdout == "/mine, \n"
    assert make(*show).stdout == ", --torch-backend cpu\n"


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    ended = make(f"VENV={tmp_path}/venv", "PYTHON=python3.99", f"{tmp_path}/venv/bin/uv")
    assert ended.returncode == 2
    assert ended.stdout == "python3.99 is not found. Try: make PYTHON=python3.11 ...\n"
    assert list(tmp_path.iterdir()) == []


def test_help_lists_what_one_may_type() -> None:
    listed = make("help").stdout
    for target in ("install", "quickstart", "check", "test", "test-slow", "bench"):
        assert f"\n{target} " in f"\n{listed}", target


def test_bench_runs_the_benchmark_with_what_developers_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").touch()
    planned = make("--dry-run", f"VENV={tmp_path}", "bench").stdout
    assert planned.index("docker/requirements-dev.txt") < planned.index(f"{tmp_path}/bin/python -m tests.bench\n")
