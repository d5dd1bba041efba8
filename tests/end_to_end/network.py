"""Machines of one real machine: network namespaces with an address each, joined by a bridge that has a namespace too.

Nothing is made outside of these namespaces, and they go with every process in them when the block ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

_SUBNET = "10.77.0"
_NEWNET = 0x40000000
"""CLONE_NEWNET of <sched.h>."""


@dataclass(frozen=True)
class Machine:
    """A network namespace."""

    namespace: str
    address: str

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in set(_ip("netns", "pids", self.namespace).split()) - {str(os.getpid())}:  # which may be inside
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def titles(self) -> list[str]:
        """Command lines of its processes."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.append(" ".join(process.cmdline()).strip())
        return found

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it starts, is on the machine for the block."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.namespace}") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())


@dataclass(frozen=True)
class Network:
    switch: Machine
    machines: dict[str, Machine]

    def pull(self, name: str) -> None:
        """The machine's cable, at the switch: its own end loses the carrier, and its addresses stay."""
        _ip("-n", self.switch.namespace, "link", "set", name, "down")

    def plug(self, name: str) -> None:
        _ip("-n", self.switch.namespace, "link", "set", name, "up")


def no_network() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    namespace = f"dft-{uuid.uuid4().hex[:8]}"
    try:
        _ip("netns", "add", namespace)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs network namespaces (root and iproute2): {getattr(error, 'stderr', None) or error}".strip()
    try:
        _ip("-n", namespace, "link", "add", "bridge", "type", "bridge")
        _ip("-n", namespace, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"needs bridges and veth pairs in network namespaces: {error.stderr}".strip()
    finally:
        _ip("netns", "del", namespace)
    return None


@contextlib.contextmanager
def network(*names: str) -> Iterator[Network]:
    """Machines of these names, each with a cable to the switch, which has an address as well."""
    tag = f"dft-{uuid.uuid4().hex[:8]}"
    every = [Machine(f"{tag}-{name}", f"{_SUBNET}.{n}") for n, name in enumerate(("switch", *names), 1)]
    made: list[Machine] = []
    try:
        for machine in every:
            _ip("netns", "add", machine.namespace)
            made.append(machine)
            _ip("-n", machine.namespace, "link", "set", "lo", "up")
        switch = every[0]
        _ip("-n", switch.namespace, "link", "add", "bridge", "type", "bridge")
        _give(switch, "bridge")
        for name, machine in zip(names, every[1:], strict=True):
            end = ("peer", "name", "cable", "netns", machine.namespace)
            _ip("-n", switch.namespace, "link", "add", name, "type", "veth", *end)
            _ip("-n", switch.namespace, "link", "set", name, "master", "bridge", "up")
            _give(machine, "cable")
        yield Network(switch, dict(zip(names, every[1:], strict=True)))
    finally:
        _remove(made)


def _give(machine: Machine, interface: str) -> None:
    _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", interface)
    _ip("-n", machine.namespace, "link", "set", interface, "up")


def _remove(machines: Sequence[Machine], polite_s: float = 10.0) -> None:
    """Ends every process of the machines, and then these."""
    try:
        _signal(machines, signal.SIGTERM)
        deadline = time.monotonic() + polite_s
        while any(machine.processes() for machine in machines) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        while any(machine.processes() for machine in machines):
            _signal(machines, signal.SIGKILL)
            time.sleep(0.1)
        for machine in machines:
            _ip("netns", "del", machine.namespace)


def _signal(machines: Sequence[Machine], number: int) -> None:
    for process in [process for machine in machines for process in machine.processes()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout
