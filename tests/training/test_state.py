"""A training that was cut off and taken up again is the one that was not, bit for bit."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dft_sweeps.spec.models import LoraSpec
from dft_sweeps.training.logprobs import all_logprobs
from dft_sweeps.training.loop import StepDone, train
from dft_sweeps.training.lora import add_adapters
from dft_sweeps.training.policy import Policy
from dft_sweeps.training.sharding import Ranks
from dft_sweeps.training.state import StateError, TrainState, check_files, read_header
from tests.training.loops import computed, execution
from tests.training.tiny_policy import random_samples, tiny_model, train_spec

SAMPLES = random_samples(20)
STEPS = 6
OBJECTIVES: dict[str, dict[str, Any]] = {
    "dft": {"kind": "dft"},
    "psft": {"kind": "psft", "refresh": 4},
    "iw_sft": {"kind": "iw_sft"},
    "adapters in bfloat16": {"kind": "psft", "refresh": 4},
}


def settings_for(name: str, **fields: Any) -> Any:
    return train_spec(objective=OBJECTIVES[name], batch_size=6, steps=STEPS, learning_rate=5e-3, **fields)


def policy_for(name: str, seed: int = 0) -> Policy:
    """What is trained is different for every seed."""
    if name != "adapters in bfloat16":
        return Policy(tiny_model(seed=seed))
    model = tiny_model().to(torch.bfloat16)
    add_adapters(model, LoraSpec(kind="lora", rank=2), seed)
    return Policy(model, torch.bfloat16)


def run(state: TrainState, name: str, until: int = STEPS) -> list[dict[str, float]]:
    """The computed metrics of the steps from where the state is."""
    reference = all_logprobs(Policy(tiny_model()), SAMPLES, execution(), Ranks()) if name == "iw_sft" else None
    found = []
    for event in train(state, SAMPLES, frozenset(), execution(), Ranks(), reference):
        if isinstance(event, StepDone):
            found.append(computed(event.metrics))
            if event.step == until:
                break
    return found


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in state.policy.model.named_parameters()}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("killed_at", range(1, STEPS))
def test_resumed_at_any_step_it_ends_as_if_nothing_had_happened(name: str, killed_at: int, tmp_path: Path) -> None:
    settings = settings_for(name)
    whole = TrainState(policy_for(name), settings)
    curve = run(whole, name)

    first = TrainState(policy_for(name), settings)
    before = run(first, name, until=killed_at)
    first.save(tmp_path, Ranks(), {})
    torch.manual_seed(killed_at)  # whatever else the new process did
    second = TrainState(policy_for(name, seed=9), settings)
    second.load(tmp_path, Ranks())
    assert before + run(second, name) == curve
    for key, tensor in weights(whole).items():
        assert torch.equal(weights(second)[key], tensor), key


def test_the_random_state_is_taken_up(tmp_path: Path) -> None:
    state = TrainState(Policy(tiny_model()), settings_for("dft"))
    run(state, "dft", until=1)
    torch.manual_seed(5)
    state.save(tmp_path, Ranks(), {})
    expected = torch.rand(3)
    torch.manual_seed(6)
    TrainState(Policy(tiny_model()), settings_for("dft")).load(tmp_path, Ranks())
    assert torch.equal(torch.rand(3), expected)


def saved(directory: Path, steps: int = 2, **fields: Any) -> TrainState:
    state = TrainState(Policy(tiny_model()), settings_for("dft", **fields))
    run(state, "dft", until=steps)
    state.save(directory, Ranks(), {"threads": "1"})
    return state


def test_the_header_says_what_is_there_and_only_the_newest_stays(tmp_path: Path) -> None:
    assert read_header(tmp_path) is None
    state = saved(tmp_path)
    header = read_header(tmp_path)
    assert header is not None
    assert (header.step, header.samples, header.tokens) == (2, 12, state.tokens)
    assert (header.world_size, header.provenance) == (1, {"threads": "1"})
    run(state, "dft", until=3)
    state.save(tmp_path, Ranks(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_state_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    """A process that dies while it saves leaves a partial directory; the state before it still holds."""
    saved(tmp_path)
    (tmp_path / ".step-00000003.partial").mkdir()
    (tmp_path / ".step-00000003.partial" / "rank-00000.safetensors").write_bytes(b"half")
    header = read_header(tmp_path)
    assert header is not None and header.step == 2
    state = TrainState(Policy(tiny_model()), settings_for("dft"))
    state.load(tmp_path, Ranks())
    run(state, "dft", until=3)
    state.save(tmp_path, Ranks(), {})
    header = read_header(tmp_path)
    assert header is not None and header.step == 3


def test_where_a_state_cannot_be_written_the_one_before_still_holds(tmp_path: Path) -> None:
    state = saved(tmp_path)
    run(state, "dft", until=3)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))  # for Python an error, as a full disk is
    try:
        with pytest.raises(StateError, match=f"^{re.escape(str(tmp_path))}.*: .*File too large"):
            state.save(tmp_path, Ranks(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    header = read_header(tmp_path)
    check_files(tmp_path)
    assert header is not None and header.step == 2


def test_a_state_is_safetensors_and_json_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    names = sorted(path.name for path in (tmp_path / "step-00000002").iterdir())
    assert names == ["rank-00000.safetensors", "state.json"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    state = TrainState(Policy(tiny_model(tied=True)), settings_for("dft"))
    with pytest.raises(StateError, match=r"not the tensors of this training, e\.g\. .*lm_head"):
        state.load(tmp_path, Ranks())
    with pytest.raises(StateError, match="no state of 2 ranks"):
        state.load(tmp_path, Ranks(0, 2))
    file = tmp_path / "step-00000002" / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(StateError, match="rank-00000"):
        TrainState(Policy(tiny_model()), settings_for("dft")).load(tmp_path, Ranks())


def rewritten(header: Path, **values: Any) -> int:
    return header.write_text(json.dumps(json.loads(header.read_text()) | values))


def flipped(file: Path, place: int = -1000) -> int:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    return file.write_bytes(content)


HEADER, FILE = "state.json", "rank-00000.safetensors"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another version": (HEADER, lambda file: rewritten(file, version=0), "of version 0, where 1 is read"),
    "a header cut off": (HEADER, lambda file: file.write_text(file.read_text()[:20]), "damaged .*Unterminated"),
    "a header of something else": (HEADER, lambda file: file.write_text("[]"), "damaged"),
    "no header": (HEADER, Path.unlink, "damaged .*No such file"),
    "another step": (HEADER, lambda file: rewritten(file, step=1), f"{FILE} is not of the state its header tells of"),
    "other counts": (HEADER, lambda file: rewritten(file, tokens=1), f"{FILE} is not of the state its header tells of"),
    "more ranks": (
        HEADER,
        lambda file: rewritten(file, world_size=2),
        f"{FILE} is not of the state its header tells of",
    ),
    "one bit": (FILE, flipped, f"{FILE} is damaged: its tensors are not those that were saved"),
    "a bit of a name": (
        FILE,
        lambda file: flipped(file, file.read_bytes().index(b"exp_avg.") + 3),
        f"{FILE} is damaged",
    ),
    "numbers cut off": (FILE, lambda file: file.write_bytes(file.read_bytes()[:-10]), f"{FILE} is damaged"),
    "no file": (FILE, Path.unlink, f"{FILE} is damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_told(name: str, tmp_path: Path) -> None:
    file, damage, message = DAMAGES[name]
    saved(tmp_path)
    check_files(tmp_path)
    damage(tmp_path / "step-00000002" / file)
    with pytest.raises(StateError, match=f"^{re.escape(str(tmp_path))}.*{message}"):
        read_header(tmp_path)
        check_files(tmp_path)
