from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.bench.side_process import SideEnded, SideProcess, side_environment


def side(directory: Path, timeout_s: float = 30.0) -> SideProcess:
    return SideProcess("echo_side", directory, threads=1, timeout_s=timeout_s)


def test_a_side_answers_in_lines_whatever_it_prints(tmp_path: Path) -> None:
    with side(tmp_path) as echo:
        assert echo.ask("echo", value=[1, None, "zwölf\n"]) == [1, None, "zwölf\n"]
        assert echo.ask("echo", value={"a": 2.5}) == {"a": 2.5}
    assert echo.process.returncode == 0
    assert "printed" in echo.log.read_text()


def test_a_side_sleeps_between_commands(tmp_path: Path) -> None:
    with side(tmp_path) as echo:
        echo.ask("echo", value=0)
        time.sleep(0.2)
        process = psutil.Process(echo.process.pid)
        before = process.cpu_times()
        time.sleep(0.5)
        assert process.cpu_times() == before


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with side(tmp_path) as echo, pytest.raises(SideEnded, match="exit code 1: ZeroDivisionError"):
        echo.ask("fail")


def test_a_side_that_hangs_is_killed(tmp_path: Path) -> None:
    with side(tmp_path, timeout_s=2.0) as echo, pytest.raises(SideEnded, match="exit code -9"):
        echo.ask("hang")
    assert echo.process.poll() is not None


def test_a_side_keeps_its_files_below_the_directory(tmp_path: Path) -> None:
    given = side_environment(tmp_path, threads=3)
    for name in ("TMPDIR", "RAY_TMPDIR", "HF_HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT"):
        assert Path(given[name]).is_dir() and Path(given[name]).is_relative_to(tmp_path)
    assert (given["OMP_NUM_THREADS"], given["PATH"]) == ("3", os.environ["PATH"])
