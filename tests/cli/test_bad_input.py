"""Bad input at the command line: exit code 2, one message, and nothing left behind."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from dft_sweeps.cli.main import main
from tests.spec.example import edited, section, write

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Call]:
    """Calls the command in an empty current directory; gives exit code, stdout and stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DFT_SWEEPS_STORAGE", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dft-sweeps", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    with patch.dict(os.environ):  # `run` sets variables for Ray
        yield run


def assert_refused(result: tuple[int, str, str], message: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bad_spec(command: str, call: Call, tmp_path: Path) -> None:
    path = write(tmp_path, edited("batch_size", "batchsize"))
    place = f"{path}:12: trial.train.batchsize: "
    assert_refused(call(command, path), f"{place}unknown field 'batchsize'; did you mean 'batch_size'?\n")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_missing_spec(command: str, call: Call) -> None:
    assert_refused(call(command, "nope.yaml"), "nope.yaml: no such spec file\n")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_bad_override(command: str, call: Call, tmp_path: Path) -> None:
    result = call(command, write(tmp_path), "--set", "trial.train.stepz=3")
    assert_refused(result, "--set trial.train.stepz=3: unknown field 'stepz'; did you mean 'steps'?\n")


BELOW = {
    "missing data": ("{kind: arithmetic, samples: 320, wrong_steps: 0.1, seed: 11}", "{kind: file, path: nope.jsonl}",
                     "7: trial.data.source.path: no file "),
    "overlong completions": ("max_length: 160", "max_length: 30",
                             "6: trial.data: no sample is left of 320: they are longer than max_length 30"),
    "batch of more than all": ("batch_size: 32", "batch_size: 321",
                               "12: trial.train.batch_size: train.batch_size is 321, but there are only 320 samples"),
    "unknown benchmark": ("name: arithmetic_2", "name: arithmetic",
                          "19: trial.evaluation.benchmarks[1]: unknown benchmark 'arithmetic'; did you mean 'arith"),
    "missing model": ("{path: embedded}", "{path: ./nope}", "5: trial.model.path: no model directory "),
    "late evaluation": ("steps: [5]", "steps: [99]", "21: trial.evaluation.steps[0]: step 99 is beyond the last"),
}  # fmt: skip


@pytest.mark.parametrize("case", BELOW)
def test_what_a_spec_names_is_checked_before_anything_starts(case: str, call: Call, tmp_path: Path) -> None:
    old, new, message = BELOW[case]
    path = write(tmp_path, edited(old, new).replace(section("variants"), ""))
    assert_refused(call("plan", path), f"{path}:{message}")


def test_run_reports_what_it_reads_and_then_refuses(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path, edited("batch_size: 32", "batch_size: 321"))
    code, out, err = call("run", path)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {path}:12: trial.train.batch_size: train.batch_size is 321")
    assert [line.split("] ")[1] for line in out.splitlines()] == [
        "prepare  reading the model",
        "prepare  reading data and benchmarks",
    ]
    assert [path for path in Path.cwd().rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "Missing argument 'SPEC'"),
        (["plan", "{spec}", "--frob"], "No such option"),
        (["plan", "{spec}", "--set"], "requires an argument"),
        (["plan", "."], "is a directory"),
        (["run", "{spec}", "--storage", "{spec}"], "is a file"),
        (["plna", "{spec}"], "plna"),
        (["run", "{spec}", "again"], "unexpected extra argument"),
    ],
)
def test_a_bad_command_line(arguments: list[str], words: str, call: Call, tmp_path: Path) -> None:
    spec = str(write(tmp_path))
    code, out, err = call(*[argument.format(spec=spec) for argument in arguments])
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert list(Path.cwd().iterdir()) == []


def test_a_storage_directory_that_cannot_be_made(call: Call, tmp_path: Path) -> None:
    spec = write(tmp_path)
    code, _, err = call("run", spec, "--storage", spec / "storage")
    assert code == 2
    assert err.startswith("error: --storage: the storage directory cannot be made: ")


def test_a_storage_directory_that_no_database_address_can_hold(call: Call, tmp_path: Path) -> None:
    code, _, err = call("run", write(tmp_path), "--storage", tmp_path / "sweeps #1")
    assert code == 2
    assert err.startswith(f"error: --storage: {tmp_path}/sweeps #1 has a '#'")


def test_a_tracking_server_that_does_not_answer_is_no_mistake_of_the_user(call: Call, tmp_path: Path) -> None:
    code, out, err = call("plan", write(tmp_path), "--tracking-uri", "postgresql://127.0.0.1:9/mlflow")
    assert (code, out) == (3, "")
    assert err.startswith("unreachable: no database answers at 127.0.0.1:9")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dft_sweeps.tracking.store", "TrackingUnavailable"),
        ("dft_sweeps.orchestration.cluster", "ClusterUnavailable"),
        ("services.pool", "PoolError"),
    ],
)
def test_what_cannot_be_reached_is_an_exit_code_of_its_own(
    module: str, name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage: type[Exception] = getattr(importlib.import_module(module), name)

    def ends(**_: object) -> None:
        raise type("Closer", (outage,), {})("gone")

    monkeypatch.setattr("dft_sweeps.cli.list_.command.callback", ends)
    assert call("list") == (3, "", "unreachable: gone\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_so_is_a_storage_that_takes_no_more_writes(number: int, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(**_: object) -> None:
        raise OSError(number, os.strerror(number), "/a/file")

    monkeypatch.setattr("dft_sweeps.cli.report.command.callback", ends)
    told = f"unreachable: the storage fails: [Errno {number}] {os.strerror(number)}: '/a/file'\n"
    assert call("report", "study") == (3, "", told)


def test_another_error_of_a_file_is_a_defect(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(**_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr("dft_sweeps.cli.list_.command.callback", ends)
    with pytest.raises(OSError, match="Bad file descriptor"):
        call("list")


def test_the_installed_command_ends_the_same_way(tmp_path: Path) -> None:
    path = write(tmp_path, edited("name: study", "name: My Study"))
    (tmp_path / "work").mkdir()
    ended = subprocess.run(
        [Path(sys.executable).parent / "dft-sweeps", "run", path],
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {path}:1: name: 'My Study' cannot be a name: ")
    assert ended.stderr.count("\n") == 1
    assert list((tmp_path / "work").iterdir()) == []
