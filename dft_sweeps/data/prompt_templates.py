"""How a user's turn is written for a model: its tokenizer's chat template, or the published harness's text for its
family. Training and evaluation write prompts by the same code.

The templates here are those of the harness behind the published numbers (Qwen2.5-Math's, as forked for arXiv
2508.05629): plain strings around the question, whatever the tokenizer's own template is. The request to reason step by
step, which that harness keeps in the same strings, is each benchmark's `prompt_suffix`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.identity import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT = "chat"
TEMPLATE_FILE = "prompt_template.txt"
"""In a checkpoint's directory: the name of the template under which its sweep asks it questions."""

# Letters, digits, signs and LaTeX: another vocabulary or pre-tokenizer splits it differently.
_PROBE = "What is 12+3450? Write \\boxed{x^2}.\n"
_KEPT = 16_384
"""Prompts kept as token ids, for every checkpoint is asked the same."""
_EMBEDDED = Path(__file__).parent / "base_model"
_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class PromptTemplate:
    """Text before and after a turn, and the tokens that end an answer to it."""

    before: str
    after: str
    stops: tuple[str, ...]
    models: str
    """Hub ids of the family, as a regular expression."""


TEMPLATES = {
    "qwen_boxed": PromptTemplate(
        f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_end|>", "<|endoftext|>"),
        r"Qwen/Qwen2\.5-Math-[\d.]+B",
    ),
    # Llama 3's headers, with the end of text where its own template ends a turn.
    "llama_base_boxed": PromptTemplate(
        f"<|start_header_id|>system<|end_header_id|>\n\n{_SYSTEM}<|end_of_text|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|end_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|end_of_text|>", "<|eot_id|>"),
        r"meta-llama/(Meta-)?Llama-3(\.\d)?-\d+B",
    ),
    "deepseek_math": PromptTemplate(
        "User: ",
        "\n\nAssistant:",
        ("<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence"
         "\N{FULLWIDTH VERTICAL LINE}>",),
        r"deepseek-ai/deepseek-math-7b-base",
    ),
}  # fmt: skip


def choose_template(name: str, model_path: str, directory: Path) -> str:
    """What a spec's template comes to: a name that is not ``auto`` is itself; else a checkpoint's own record, else the
    family's by the hub id, else ``chat``.

    Args:
        model_path: the model as the spec names it. directory: where its files lie.
    """
    if name != "auto":
        return name
    record = directory / TEMPLATE_FILE
    if record.is_file():
        return record.read_text(encoding="utf-8").strip()
    return next((name for name, family in TEMPLATES.items() if re.fullmatch(family.models, model_path)), CHAT)


class Prompts:
    """Writes a model's prompts as token ids.

    Raises:
        SpecError: no template of this name, a tokenizer without a chat template (for ``chat``), or one without the
            template's tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = CHAT) -> None:
        self.tokenizer, self.template = tokenizer, template
        if template == CHAT:
            if tokenizer.chat_template is None:
                raise SpecError(
                    "the model's tokenizer has no chat template, so there is no telling how to write a prompt; "
                    f"set evaluation.template to the model's family: {', '.join(TEMPLATES)}"
                )
        elif template not in TEMPLATES:
            raise SpecError(f"unknown prompt template {template!r}; valid are {', '.join((CHAT, *TEMPLATES))}")
        self.stop_token_ids = self._stops()
        self.ids = lru_cache(maxsize=_KEPT)(self._ids)
        """From a user's turn to its token ids, up to where the answer begins."""

    def _ids(self, turn: str) -> tuple[int, ...]:
        if self.template == CHAT:
            messages = [{"role": "user", "content": turn}]
            apply: Any = self.tokenizer.apply_chat_template
            return tuple(apply(messages, add_generation_prompt=True, tokenize=True, return_dict=False))
        # The harness hands text to the engine, which adds what the tokenizer begins texts with.
        return tuple(self.tokenizer(self.text(turn))["input_ids"])

    def text(self, turn: str) -> str:
        """A user's turn as text, under a template of a family. Blanks at the ends go, as in the harness."""
        template = TEMPLATES[self.template]
        return (template.before + turn + template.after).strip(" ")

    @cached_property
    def digest(self) -> str:
        """Hash of the template, of how the tokenizer splits one short text, and of what ends an answer. For ids that
        hold a digest of the tokenizer's files as well: alone it does not mean equal prompts (`full_digest` does). A
        chat template that writes the date is hashed as text, so its digest does not change from day to day.
        """
        probe = list(self.tokenizer(_PROBE)["input_ids"])
        if self.template == CHAT:
            return digest([self.tokenizer.chat_template, probe, self.tokenizer.eos_token_id])
        template = TEMPLATES[self.template]
        return digest([template.before, template.after, probe, list(self.stop_token_ids)])

    @cached_property
    def full_digest(self) -> str:
        """`digest`, with all of a tokenizer that is not the embedded model's: equal ones mean equal prompts, and equal
        texts of equal completions."""
        whole = _tokenizer_digest(self.tokenizer)
        return self.digest if whole == _embedded_tokenizer_digest() else digest([self.digest, whole])

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Texts of completions, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)
        return texts

    def _stops(self) -> tuple[int, ...]:
        """The end of sequence, and what ends an answer under the template."""
        eos = self.tokenizer.eos_token_id
        stops = set() if eos is None else {eos}
        for token in TEMPLATES[self.template].stops if self.template != CHAT else ():
            id_ = self.tokenizer.convert_tokens_to_ids(token)
            if id_ is None or self.tokenizer.convert_ids_to_tokens(id_) != token:  # an unknown token has an id, too
                raise SpecError(
                    f"the model's tokenizer has no token {token!r}, which ends an answer under {self.template}: "
                    "set evaluation.template to its own family, or to chat"
                )
            stops.add(id_)
        return tuple(sorted(stops))


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of everything that turns text into tokens and back, but for the settings that a call leaves behind."""
    if tokenizer.is_fast:
        backend: Any = tokenizer
        content = json.loads(backend.backend_tokenizer.to_str())
        content |= {"padding": None, "truncation": None}
    else:
        content = [type(tokenizer).__name__, tokenizer.get_vocab()]
    special = [str(token) for token in tokenizer.all_special_tokens]
    return hashlib.sha256(json.dumps([content, special], sort_keys=True).encode()).hexdigest()


@cache
def _embedded_tokenizer_digest() -> str:
    from transformers import AutoTokenizer

    return _tokenizer_digest(AutoTokenizer.from_pretrained(_EMBEDDED))


def read_tokenizer(directory: Path, trusted: bool) -> PreTrainedTokenizerBase:
    """A model's own; its code is run where it is `trusted`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, trust_remote_code=trusted)
