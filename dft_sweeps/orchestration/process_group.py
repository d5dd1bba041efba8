"""The process group of a trial's workers: Ray Train's own, which listens where other nodes reach it, and which leaves
nothing behind where it cannot be made."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class ProcessGroup(TorchConfig):
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        try:
            worker_group.execute(listen_at_the_nodes_address)
            super().on_start(worker_group, backend_config)
        except Exception:
            worker_group.shutdown()  # Ray 2.60 would keep its placement group, and no next attempt finds a place
            raise


def listen_at_the_nodes_address() -> None:
    """Gloo listens where the host's name resolves to, on Debian a loopback address, unless it is told an interface:
    that of the address by which the cluster knows this node. What the operator has set stays."""
    here = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if here in {each.address for each in addresses}:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
