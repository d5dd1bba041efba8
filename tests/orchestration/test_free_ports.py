"""Ports for services that bind them seconds later."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dft_sweeps.orchestration import cluster
from dft_sweeps.orchestration.cluster import ClusterUnavailable, free_port, free_ports


def test_ports_differ_and_are_none_that_the_kernel_gives_away() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = free_ports(50)
    assert len(set(found)) == 50 and all(20_000 <= port < min(30_000, lowest) for port in found)


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(cluster, "_PORTS", range(port, port + 100))
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        assert port not in free_ports(50)
        with pytest.raises(ClusterUnavailable, match=f"no port from {port} to {port + 100} is free"):
            free_ports(100)
