"""Files on a sweep's storage that are not as they were written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.end_to_end.disturbing import Points, require_whole, running, taken_up
from tests.end_to_end.running import Finished


def flip_a_bit(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def change_a_digit(file: Path, rng: random.Random) -> None:
    """So that it is still valid JSON, and says something else: the last of a number's 17 digits may make none."""
    before = file.read_text()
    places = [place for place, character in enumerate(before) if character in "123456789"]
    while [*map(json.loads, file.read_text().splitlines())] == [*map(json.loads, before.splitlines())]:
        place = rng.choice(places)
        digit = rng.choice("123456789".replace(before[place], ""))
        file.write_text(before[:place] + digit + before[place + 1 :])


def cut_off(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size))


Poison = Callable[[Path, random.Random], None]
POISONED: dict[str, tuple[str, Poison, str]] = {
    "completions": ("evaluations/*/completions.parquet", flip_a_bit, "grades"),
    "verdicts": ("grades/*/verdicts.parquet", flip_a_bit, ""),
    "data": ("encoded/*.npz", flip_a_bit, "trials"),
    "rows": ("trials/*/metrics.jsonl", change_a_digit, ""),
    "checkpoints": ("trials/*/checkpoints.json", change_a_digit, ""),
    "weights": ("trials/*/step-*/model.safetensors", cut_off, ""),
}
"""Files, what is done to one of them, and what is removed so that it is read."""


def require_that_poison_is_named(
    name: str, storage: Path, rng: random.Random, uri: str, command: Callable[[], Finished], reference: Points
) -> str:
    """Poisons a file of a finished sweep, whose `command` for an MLflow at `uri` that knows nothing of it gets
    everything from the storage: it names the file, never uses it, and ends well at once or once it was removed."""
    files, poison, removed = POISONED[name]
    file = rng.choice(sorted(storage.glob(files)))
    poison(file, rng)
    if removed:
        shutil.rmtree(storage / removed)
    finished = command()
    assert str(file) in finished.text, finished.text
    if finished.code:
        assert (finished.code, finished.left, running(uri)) == (1, [], []), finished.text
        assert "Traceback" not in finished.text
        file.unlink() if name == "data" else shutil.rmtree(file.parent)  # as it says
        finished = command()
    require_whole(finished, uri, reference)
    return f"{file.name}: {taken_up(finished)}"
