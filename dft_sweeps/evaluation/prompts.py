"""Prompts: a benchmark's question under the model's own chat template, as token ids.

Training renders its prompts by the same function, so a policy is measured on the prompts it was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dft_sweeps.data.encode import prompt_ids, require_template
from dft_sweeps.spec.identity import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Letters, digits, signs and LaTeX: another vocabulary or pre-tokenizer splits it differently.
_PROBE = "What is 12+3450? Write \\boxed{x^2}.\n"


def render(tokenizer: PreTrainedTokenizerBase, question_text: str) -> tuple[int, ...]:
    """Token ids of one user turn, up to where the model's answer begins.

    Raises:
        SpecError: the tokenizer has no chat template.
    """
    return prompt_ids(question_text, tokenizer)


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the chat template and of how the tokenizer splits text: equal digests mean equal prompts.

    A template that writes the date is hashed as text, so its digest does not change from day to day.

    Raises:
        SpecError: the tokenizer has no chat template.
    """
    require_template(tokenizer)
    return digest([tokenizer.chat_template, list(tokenizer(_PROBE)["input_ids"]), tokenizer.eos_token_id])
