"""A model as files: finding its directory, hashing what it is, and telling early whether it will load.

Nothing here reads weights into memory: names and shapes come from the headers of the safetensors files.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ModelSpec
from dft_sweeps.training.trusted import refusal, trusts

EMBEDDED = Path(__file__).parent.parent / "data" / "base_model"
"""The base policy shipped with the package."""

_BLOCK = 1 << 22
_UNSUPPORTED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of some architectures that change logits after the output matrix; the head does not apply them."""

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json"),
)
"""All that decides how text becomes tokens."""

INERT_KEYS = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "initializer_range"}
    | {"attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id"}
)
"""Keys of config.json that change nothing in what a checkpoint computes when it is only sampled from."""


@dataclass(frozen=True)
class ModelFiles:
    directory: Path
    weights_digest: str
    """Weights, and what else decides which tokens follow a prompt."""
    digest: str
    """Weights, configuration and tokenizer together."""
    parameters: int
    vocabulary: int
    context: int
    """Longest sequence of tokens the model was made for."""
    linear_layers: tuple[str, ...]
    """Names of the layers that adapters can be put on."""
    trusted: bool = False
    """Whether code that it brings is run."""


def resolve_model(model: ModelSpec, base_directory: Path) -> Path:
    """The local directory of a model: embedded, a directory (relative to `base_directory`), or fetched from the hub.

    Raises:
        SpecError: no such directory, or the hub has no such model or cannot be reached.
    """
    if model.path == "embedded":
        return EMBEDDED
    local = base_directory / os.path.expanduser(model.path)
    if local.is_dir():
        return local
    if local.exists():
        raise SpecError(f"model {model.path!r} is a file; give the directory that holds config.json")
    if model.path.startswith((".", "/", "~")) or model.path.count("/") > 1:
        raise SpecError(f"no model directory {local}")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        fetched = huggingface_hub.snapshot_download(
            model.path,
            revision=model.revision,
            allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", *["*.py"] * trusts(model.path)],
        )
    except (OSError, HFValidationError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"no directory {local}, and the hub does not give model {model.path!r}: {reason}") from error
    return Path(fetched)


def tensor_headers(directory: Path) -> dict[str, tuple[Path, dict[str, Any], int]]:
    """For each tensor of a model directory: its file, its header (dtype, shape, data_offsets) and where data starts.

    Raises:
        SpecError: no safetensors files, or one that is truncated or not safetensors.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise SpecError(f"{directory}: no safetensors files; other weight formats are not read")
    tensors: dict[str, tuple[Path, dict[str, Any], int]] = {}
    for file in files:
        header, start = _header(file)
        for name, entry in header.items():
            if name in tensors:
                raise SpecError(f"{directory}: tensor {name!r} is in two files")
            tensors[name] = (file, entry, start)
    return tensors


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        try:
            if not 2 <= length <= 100_000_000:
                raise ValueError("bad header length")
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise SpecError(f"{file}: not a safetensors file, or truncated ({error})") from error
    if file.stat().st_size != 8 + length + end:
        raise SpecError(f"{file}: truncated; {file.stat().st_size} bytes, its header says {8 + length + end}")
    return header, 8 + length


def weights_digest(directory: Path) -> str:
    """SHA-256 of what decides which tokens follow a prompt: every tensor's name, dtype, shape and bytes, however they
    are split over files, and what config.json and generation_config.json say beside them.

    Where they say what the embedded model's do, or there is no config.json, it is that of the tensors alone: ids of
    what is evaluated already stay.

    Raises:
        SpecError: no safetensors files, truncated ones, or settings that are no JSON object.
    """
    return _with_settings(directory, _tensors_digest(directory))


def _with_settings(directory: Path, tensors: str) -> str:
    settings = _settings(directory)
    if settings is None or settings == _settings(EMBEDDED):
        return tensors
    return hashlib.sha256(json.dumps([tensors, settings], sort_keys=True).encode()).hexdigest()


def _settings(directory: Path) -> list[Any] | None:
    """What a policy computes with its weights, and the tokens that end its completions. As the files spell it, so that
    no release of transformers changes a digest; None in the directory of an adapter."""
    config = _json_object(directory / "config.json")
    if config is None:
        return None
    generation = _json_object(directory / "generation_config.json")
    ends = (config if generation is None else generation).get("eos_token_id")
    kept = {key: value for key, value in config.items() if key not in INERT_KEYS}
    return [kept, sorted(ends, key=str) if isinstance(ends, list) else [ends]]


def _json_object(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"{file}: not a JSON object ({error})") from error
    if not isinstance(content, dict):
        raise SpecError(f"{file}: not a JSON object")
    return content


def end_tokens(directory: Path, trusted: bool = False) -> tuple[int, ...]:
    """What ends a completion, whatever the prompt: by the generation settings, else the configuration, as in vLLM."""
    from transformers import AutoConfig, GenerationConfig

    with _loading(directory):
        if (directory / "generation_config.json").is_file():
            settings = GenerationConfig.from_pretrained(directory)
        else:
            settings = GenerationConfig.from_model_config(
                AutoConfig.from_pretrained(directory, trust_remote_code=trusted)
            )
    ends = settings.eos_token_id
    return (ends,) if isinstance(ends, int) else tuple(sorted(ends or ()))


def _tensors_digest(directory: Path) -> str:
    """The same however tensors are split over files."""
    total = hashlib.sha256()
    for name, (file, entry, start) in sorted(tensor_headers(directory).items()):
        total.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        begin, end = entry["data_offsets"]
        with file.open("rb") as stream:
            stream.seek(start + begin)
            left = end - begin
            while left:
                block = stream.read(min(_BLOCK, left))
                if not block:
                    raise SpecError(f"{file}: became shorter while it was read")
                total.update(block)
                left -= len(block)
    return total.hexdigest()


def inspect_model(directory: Path, name: str = "") -> ModelFiles:
    """Checks that a model directory will load and train here, without loading it. `name` is what the spec calls the
    model, by which the operator may have allowed its code.

    Raises:
        SpecError: code that is not allowed, a missing or unknown configuration, no causal language model, weights or a
            tokenizer that do not fit it, or a head that this package does not compute exactly.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not (directory / "config.json").is_file():
        raise SpecError(f"{directory}: no config.json, so this is no model directory")
    trusted = trusts(name)
    with _loading(directory, name):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trusted)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted)
    if config.get_text_config() is not config:
        raise SpecError(f"{directory}: {config.model_type} is made of several models; only a language model is trained")
    context = getattr(config, "max_position_embeddings", None)
    with _loading(directory, name), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    if context is None:
        raise SpecError(f"{directory}: {config.model_type} has no positions, so packed samples cannot be told apart")
    # Without these files transformers makes an empty tokenizer, in which every text is no token at all.
    if not any((directory / name).is_file() for name in ("tokenizer.json", *tokenizer.vocab_files_names.values())):
        raise SpecError(f"{directory}: no tokenizer files")
    refuse_unsupported_head(model, str(directory))
    headers = tensor_headers(directory)
    _check_shapes(directory, model, {name: tuple(entry["shape"]) for name, (_, entry, _) in headers.items()})
    if len(tokenizer) > config.vocab_size:
        raise SpecError(f"{directory}: the tokenizer has {len(tokenizer)} tokens, the model only {config.vocab_size}")
    tensors = _tensors_digest(directory)
    return ModelFiles(
        directory=directory,
        weights_digest=_with_settings(directory, tensors),
        digest=_model_digest(directory, tensors, trusted),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=config.vocab_size,
        context=context,
        linear_layers=tuple(linear_layers(model)),
        trusted=trusted,
    )


@contextmanager
def _loading(directory: Path, name: str = "") -> Iterator[None]:
    """What transformers raises on broken directories, or on code that it may not run, becomes a SpecError."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise refusal(name or str(directory)) from error
        raise SpecError(f"{directory}: the model does not load: {' '.join(str(error).split())[:300]}") from error


def linear_layers(model: Any) -> list[str]:
    """Names of a model's linear layers; the head is not one of them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def refuse_unsupported_head(model: Any, where: str) -> None:
    """Raises SpecError, by name, on output heads that are not a plain matrix product."""
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise SpecError(f"{where}: its output head has a bias, which is not supported")
    for name in _UNSUPPORTED:
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise SpecError(f"{where}: its configuration sets {name}, which is not supported")


def _check_shapes(directory: Path, model: Any, stored: dict[str, tuple[int, ...]]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    missing = sorted(wanted.keys() - stored.keys() - tied)
    unknown = sorted(stored.keys() - wanted.keys())
    wrong = sorted(name for name in wanted.keys() & stored.keys() if wanted[name] != stored[name])
    for names, what in ((missing, "lacks"), (unknown, "has the unknown"), (wrong, "has the wrong shape of")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise SpecError(f"{directory}: its weights do not fit its config.json: it {what} {names[0]!r}{more}")


def _model_digest(directory: Path, tensors: str, trusted: bool) -> str:
    total = hashlib.sha256(tensors.encode())
    code = [file.name for file in directory.glob("*.py")] if trusted else []
    for name in ("config.json", *_TOKENIZER_FILES, *sorted(code)):
        file = directory / name
        if file.is_file():
            total.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()
