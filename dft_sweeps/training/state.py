"""The state of a training: what a trial that was cut off needs to go on as if nothing had happened.

A saved state is a directory `step-00000040` with one safetensors file per rank and `state.json`. It is written beside
its place, flushed to the disk and renamed, so a directory under its final name is always whole, whatever dies
meanwhile; the one before is removed only then. Damage that comes later is found by `check_files`. Nothing in it is a
pickle. It is read back by as many ranks as wrote it.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dft_sweeps.data.durable import flush
from dft_sweeps.spec.models import TrainSpec
from dft_sweeps.training.optimizer import adamw
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks, local

VERSION = 1
_HEADER, _CHECKSUM = "state.json", "checksum"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_OLD = "old_logp."


class StateError(RuntimeError):
    """A saved state that is not this training's, or not whole, or that cannot be written."""


@dataclass(frozen=True)
class StateHeader:
    """What a saved state says of itself."""

    step: int
    tokens: int
    samples: int
    world_size: int
    provenance: dict[str, str]
    version: int = VERSION

    @property
    def counts(self) -> dict[str, str]:
        """What every rank's file repeats."""
        return {name: str(getattr(self, name)) for name in ("step", "tokens", "samples", "world_size")}


@dataclass
class TrainState:
    """A policy after `step` optimizer steps, with its optimizer and counters. The loop advances it in place."""

    policy: Policy
    settings: TrainSpec
    step: int = 0
    tokens: int = 0
    """Tokens trained on so far, over all ranks."""
    samples: int = 0
    old_logp: dict[int, Tensor] = field(default_factory=dict)
    """For objectives with an old policy: its log-probabilities of a coming step's batch, [targets], zero for the
    targets of other ranks."""

    def __post_init__(self) -> None:
        parameters = [parameter for _, parameter in self.policy.trained_parameters()]
        sharded = {isinstance(parameter, dist.tensor.DTensor) for parameter in parameters}
        assert len(sharded) == 1, "whole for a pass and not resharded, some parameters are not those to be trained"
        self.optimizer = adamw(parameters, self.settings)

    def save(self, directory: Path, ranks: Ranks, provenance: Mapping[str, str]) -> None:
        """Writes the state below `directory` and removes the one before. Collective.

        Raises:
            StateError, OSError: it cannot be written; the one before still holds.
        """
        target = directory / f"step-{self.step:08d}"
        partial = directory / f".{target.name}.partial"
        if ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            partial.mkdir(parents=True)
        ranks.barrier()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors()}
        header = StateHeader(self.step, self.tokens, self.samples, ranks.world_size, dict(provenance))
        metadata = header.counts | {_CHECKSUM: _checksum(tensors)}
        try:
            save_file(tensors, partial / _file(ranks.rank), metadata)
        except SafetensorError as error:
            raise StateError(f"{partial}: {error}") from error
        flush(partial / _file(ranks.rank))
        ranks.barrier()
        if ranks.rank == 0:
            (partial / _HEADER).write_text(json.dumps(asdict(header), indent=1))
            _commit(partial, target)
        ranks.barrier()

    def load(self, directory: Path, ranks: Ranks) -> None:
        """Takes up the newest whole state below `directory`. Every rank reads its own file.

        Raises:
            StateError: it was saved by another number of ranks, or its tensors are not this training's.
        """
        header = read_header(directory)
        if header is None or header.world_size != ranks.world_size:
            raise StateError(f"{directory}: no state of {ranks.world_size} ranks")
        file = _saved(directory)[-1] / _file(ranks.rank)
        try:
            stored = load_file(file)
        except (OSError, SafetensorError) as error:
            raise StateError(f"{file}: {error}") from error
        self._make_moments()
        self.old_logp = {int(name.removeprefix(_OLD)): stored[name] for name in stored if name.startswith(_OLD)}
        mine = dict(self._tensors())
        if unlike := stored.keys() ^ mine.keys():
            raise StateError(f"{file}: not the tensors of this training, e.g. {min(unlike)!r}")
        for name, tensor in mine.items():
            if stored[name].shape != tensor.shape or stored[name].dtype != tensor.dtype:
                raise StateError(f"{file}: {name!r} is {_kind(stored[name])}, not {_kind(tensor)}")
            tensor.copy_(stored[name])
        torch.set_rng_state(stored["rng.cpu"])
        if "rng.cuda" in stored:
            torch.cuda.set_rng_state(stored["rng.cuda"])
        self.step, self.tokens, self.samples = header.step, header.tokens, header.samples

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that changes in training, as this rank holds it."""
        for name, parameter in self.policy.trained_parameters():
            moments = self.optimizer.state[parameter]
            yield f"weight.{name}", local(parameter.detach())
            yield f"step.{name}", moments["step"]
            for moment in _MOMENTS:
                yield f"{moment}.{name}", local(moments[moment])
        for step, values in self.old_logp.items():
            yield f"{_OLD}{step}", values
        yield "rng.cpu", torch.get_rng_state()
        if torch.cuda.is_available():
            yield "rng.cuda", torch.cuda.get_rng_state()

    def _make_moments(self) -> None:
        """AdamW makes its moments at its first step; a training that goes on needs them before."""
        fused = self.optimizer.defaults["fused"]
        for _, parameter in self.policy.trained_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if fused else "cpu"),
                **{moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS},
            }


def read_header(directory: Path) -> StateHeader | None:
    """The header of the newest state below `directory`; None where there is no state.

    Raises:
        StateError: it cannot be read, or is of another version.
    """
    saved = _saved(directory)
    if not saved:
        return None
    file = saved[-1] / _HEADER
    try:
        values = json.loads(file.read_text())
        if values["version"] == VERSION:
            return StateHeader(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{file} is damaged ({error})") from error
    raise StateError(f"{file} is of version {values['version']}, where {VERSION} is read")


def check_files(directory: Path) -> None:
    """Reads all files of the newest state below `directory`, and compares them with what they say of themselves.

    Raises:
        StateError: the file of a rank is missing or damaged, or is not of the state that the header tells of.
    """
    header = read_header(directory)
    if header is None:
        return
    for rank in range(header.world_size):
        file = _saved(directory)[-1] / _file(rank)
        try:
            with safe_open(file, "pt") as stored:
                says = stored.metadata() or {}
            checksum = _checksum(load_file(file))
        except (OSError, SafetensorError) as error:
            raise StateError(f"{file} is damaged ({error})") from error
        if checksum != says.pop(_CHECKSUM, None):
            raise StateError(f"{file} is damaged: its tensors are not those that were saved")
        if says != header.counts:
            raise StateError(f"{file} is not of the state its header tells of")


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Against accidents only, so CRC-32, which is several times as fast as a cryptographic hash."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {_kind(tensor)}".encode(), total)
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def _commit(partial: Path, target: Path) -> None:
    """Gives a state its final name, and removes those before."""
    flush(partial / _HEADER)
    flush(partial)
    partial.rename(target)
    flush(target.parent)
    for other in _saved(target.parent):
        if other != target:
            shutil.rmtree(other)


def _saved(directory: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(directory.glob("step-*"))


def _file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
