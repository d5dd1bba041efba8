"""A side of an evaluation row in a process of its own, which answers commands in lines of JSON and sleeps in between.

Whatever libraries print goes to a log file; temporary files and caches go below the row's directory, which the row
removes. The process ends when its commands do, so a side closes its cluster and engines by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

_QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_NO_USAGE_STATS": "1",
}
_END_S = 120.0
"""Seconds a side may take to end: a cluster waits for its processes."""
_NUMBERS = count(1)


class SideEnded(RuntimeError):
    """The process ended before its time; its last line is in the message."""


class SideProcess:
    """A side that waits for us. `started` is when it was started, on the performance counter.

    Every command may take `timeout_s`; a side that takes longer is killed, and raises SideEnded as one that dies does.
    """

    def __init__(self, module: str, directory: Path, threads: int, timeout_s: float = 3600.0) -> None:
        self.log = directory / f"{module}-{next(_NUMBERS)}.log"
        self._timeout_s = timeout_s
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.bench.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env=side_environment(directory, threads),
                text=True,
            )

    def __enter__(self) -> SideProcess:
        return self

    def ask(self, command: str, **arguments: Any) -> Any:
        """What the side answers to a command.

        Raises:
            SideEnded: it died, or took too long.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        watchdog = threading.Timer(self._timeout_s, self.process.kill)
        watchdog.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the log says why
                self.process.stdin.write(json.dumps([command, arguments]) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            self.process.wait()
            raise SideEnded(self._last_words())
        return json.loads(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip()[-300:] if lines else "it said nothing"
        return f"{self.log.stem} ended early with exit code {self.process.returncode}: {last}"


def side_environment(directory: Path, threads: int) -> dict[str, str]:
    """The environment of a side: nothing downloaded, nothing left behind outside `directory`."""
    places = {name: directory / name for name in ("temporary", "cache")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    return dict(os.environ) | _QUIET | {
        "OMP_NUM_THREADS": str(threads),
        "RAY_TMPDIR": str(directory),
        "TMPDIR": str(places["temporary"]),
        "XDG_CACHE_HOME": str(places["cache"]),
        "HF_HOME": str(places["cache"]),
        "VLLM_CACHE_ROOT": str(places["cache"]),
    }  # fmt: skip


def run_command(storage: Path, name: str, *arguments: str) -> str:
    """Runs one of the package's commands on a storage directory, which is made, and gives what it prints.

    Raises:
        SideEnded: it fails.
    """
    storage.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dft_sweeps.cli.main", name, *arguments, "--storage", str(storage)]
    ended = subprocess.run(command, env=side_environment(storage, 1), capture_output=True, text=True, timeout=900)
    if ended.returncode:
        raise SideEnded(f"{name} ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-300:]}")
    return ended.stdout


def standard_streams() -> tuple[TextIO, TextIO]:
    """In a side, before anything prints: where commands come from, and where answers alone go to."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin, answers


def serve(commands: Mapping[str, Callable[..., Any]], asked: TextIO, answers: TextIO) -> None:
    """Answers one command after the other until there are no more."""
    for line in asked:
        command, arguments = json.loads(line)
        answers.write(json.dumps(commands[command](**arguments)) + "\n")
        answers.flush()
