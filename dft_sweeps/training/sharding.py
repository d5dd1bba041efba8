"""Several ranks as one trainer: FSDP2 over the policy, and the few collectives the loop needs.

With one rank nothing is wrapped and no process group is needed, so the package trains in a notebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from dft_sweeps.training.decoder import decoder_layers
from dft_sweeps.training.lora import merged_state
from dft_sweeps.training.policy import Policy


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, dist.tensor.DTensor) else tensor


@dataclass(frozen=True)
class Ranks:
    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """This process's place in the default process group, or alone without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def shard(self, policy: Policy) -> Policy:
        """Shards each decoder layer and then the root, whose forward holds the head. In place."""
        if self.world_size > 1:
            mesh = dist.device_mesh.init_device_mesh(policy.model.device.type, (self.world_size,))
            for model in filter(None, (policy.model, policy.reference)):
                for layer in decoder_layers(model):
                    fully_shard(layer, mesh=mesh)
            fully_shard(policy, mesh=mesh)
        return policy

    def sync_gradients(self, policy: nn.Module, on: bool) -> None:
        """Whether the next backward pass reduces gradients over the ranks: only an optimizer batch's last one does."""
        if isinstance(policy, FSDPModule):
            policy.set_requires_gradient_sync(on)

    def clip_gradients(self, policy: nn.Module, largest: float) -> float:
        """Scales gradients down to the norm `largest`; returns the global norm before that."""
        norm = nn.utils.clip_grad_norm_(policy.parameters(), largest)
        return float(norm.full_tensor() if isinstance(norm, dist.tensor.DTensor) else norm)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks of a tensor on the policy's device, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def full_state(self, policy: Policy) -> dict[str, Tensor]:
        """The whole model's weights on the CPU of rank 0, adapters merged (collective); empty on the other ranks."""
        return merged_state(policy.model, self._full_state)

    def _full_state(self, model: nn.Module) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        if self.world_size == 1:
            return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
