"""A Ctrl-C ends a command wherever it comes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.end_to_end.running import heed_interrupts

COMMAND = """
import os, signal, sys, time
import click
from dft_sweeps.cli import main
from dft_sweeps.orchestration.interrupts import heed_interrupts, uninterrupted

class Cached:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        for _ in range(1000):
            pass

@click.command()
def command():
    heed_interrupts()
    {lead}
    cached = Cached()
    del cached
    {then}
    time.sleep(60)
    print("went on")

main.group = command
main.main()
"""


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("lead", "then"),
    [
        ("pass", "pass"),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", "pass"),  # as under nohup
        ("pass", "with uninterrupted(): time.sleep(0.5); print('cleaned up', flush=True)"),
    ],
)
def test_an_interrupt_amid_a_destructor_ends_the_command_all_the_same(sent: str, lead: str, then: str) -> None:
    command = [sys.executable, "-c", COMMAND.format(signal=sent, lead=lead, then=then)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, preexec_fn=heed_interrupts)
    assert (ended.returncode, ended.stderr.strip()) == (130, "interrupted"), ended
    assert ended.stdout == ("cleaned up\n" if "cleaned" in then else "")


def test_what_else_a_destructor_raises_is_told() -> None:
    code = "\n".join(
        (
            "from dft_sweeps.orchestration.interrupts import repeat_lost_interrupts",
            "repeat_lost_interrupts()",
            "class Broken:",
            "    def __del__(self): raise ValueError('broken')",
            "Broken()",
        )
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 0 and "ValueError: broken" in ended.stderr
