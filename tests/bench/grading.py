"""Grading throughput: answers per second of one grading process, everything cold, against the issue's floor.

The completions are GSM8K's worked solutions and what an untrained base model writes: solutions cut short, words in no
order, prose after "the answer is", prose and formulas in boxes, code, loops. No two share an answer and a gold, so the
cache of verdicts saves nothing; the child starts within the measured time. Beside it: the same with a warm cache.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path

from dft_sweeps.evaluation.grading import GraderPool
from tests.bench.row import Machine, Row

SHARED = Path(__file__).parents[3] / "shared" / "data"
FLOORS = {("strict",): 150.0, ("paper",): 150.0, ("strict", "paper"): 100.0}
"""Answers per second that are asked for."""
COUNT = 3000
_FORMULAS = (
    r"\frac{%d}{%d}", r"%d\sqrt{%d}", r"x^{%d} + %d x", r"\left(%d, \frac{\pi}{%d}\right)", r"[%d, %d)", "%d, %d",
    r"%d \text{ dollars and } %d \text{ cents}", r"\begin{pmatrix} %d \\ %d \end{pmatrix}", r"%d\%% of %d", "x = %d/%d",
    r"2^{%d} - %d", r"%d^\circ %d'", r"\{%d, %d\}", r"%d \times 10^{%d}", r"\sin(%d x) \cos(%d)", "%d,%03d",
)  # fmt: skip


def completions(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(gold, completion) pairs: solutions and base-like text in turn, `count` in all, from GSM8K's training file."""
    rows = [json.loads(line) for line in (SHARED / "train" / "gsm8k_train.jsonl").open(encoding="utf-8")]
    draw = random.Random(seed)
    draw.shuffle(rows)
    found = []
    for index, row in enumerate(rows[:count]):
        gold = row["answer"].rpartition("####")[2].strip()
        found.append((gold, row["answer"] if index % 2 else _garbage(row["answer"], draw)))
    return found


def _garbage(solution: str, draw: random.Random) -> str:
    words = solution.split()
    some = " ".join(draw.sample(words, min(len(words), 40)))
    formula = draw.choice(_FORMULAS) % (draw.randrange(1, 999), draw.randrange(1, 999))
    kind = draw.randrange(8)
    texts = (
        solution[: draw.randrange(1, len(solution))],
        f"{some} {some[::-1]} {draw.randrange(10**6)}",
        f"The answer is {some}",
        f"So the answer is ${formula}$. {some}",
        rf"{some} $\boxed{{{formula}}}$",
        rf"{some} \boxed{{{some[:120]}",
        f"def solve():\n    total = {draw.randrange(999)}\n    return total * {formula!r}\n" * 8,
        f"{words[0]} {draw.randrange(10**6)} " * draw.randrange(50, 400),
    )
    return texts[kind]


def seconds(items: list[tuple[str, str]], graders: tuple[str, ...]) -> tuple[float, float]:
    """(cold, warm) seconds to grade all items by each grader in turn, with one child."""
    times = []
    with GraderPool(workers=1) as pool:
        for _ in range(2):
            before = time.perf_counter()
            for grader in graders:
                pool.grade(items, grader)
            times.append(time.perf_counter() - before)
    return times[0], times[1]


def rows(machine: Machine) -> list[Row]:
    """A row for each grader and one for both, cold; each also names the rate with the cache."""
    unmeasured = {
        graders: Row(
            name=f"grading_{'_and_'.join(graders)}_answers_per_second",
            peer_name="the floor asked for",
            unit="answers/s",
            detail="one child process, cold: GSM8K solutions and base-like text, half and half",
            not_run="GSM8K's files are not beside the checkout",
        )
        for graders in FLOORS
    }
    if not SHARED.is_dir():
        return list(unmeasured.values())
    items = completions(COUNT // 10 if machine.quick else COUNT)
    measured = []
    for graders, floor in FLOORS.items():
        runs = [seconds(items, graders) for _ in range(machine.rounds)]
        cold, warm = (len(items) / statistics.median(run[at] for run in runs) for at in (0, 1))
        row = unmeasured[graders]
        detail = f"{row.detail}; {len(items)} answers; again with the cache: {warm:.0f}/s"
        measured.append(Row(row.name, row.peer_name, row.unit, detail, ours=cold, peer=floor))
    return measured
