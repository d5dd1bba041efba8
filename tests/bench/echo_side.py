"""A side without engines, for the tests of `side_process`."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.side_process import serve, standard_streams


def echo(value: Any) -> Any:
    print("printed")
    return value


def fail() -> float:
    return 1 / 0


def hang() -> None:
    time.sleep(600)


if __name__ == "__main__":
    serve({"echo": echo, "fail": fail, "hang": hang}, *standard_streams())
