"""The tokenizer of the embedded base policy: a small byte-level BPE in which no text is unknown.

Built from the arithmetic task's own text, so the same code always gives the same vocabulary; nothing is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dft_sweeps.data.arithmetic import LEVELS, demonstrations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 384
"""An upper bound: 256 bytes, the special tokens and the merges that the task's text supports."""

END_OF_TURN = "<|im_end|>"
PADDING = "<|endoftext|>"
SPECIAL_TOKENS = (PADDING, "<|im_start|>", END_OF_TURN)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without a system prompt."""

_CORPUS_SIZE = 4000


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained afresh; every digit is a token of its own and every byte is in the vocabulary.

    `max_length` (tokens) is what the tokenizer states as its model's limit.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        padding_side="left",
    )


def save_tokenizer(directory: Path, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json (with the chat template) into an existing directory."""
    build_tokenizer(max_length).save_pretrained(directory, save_jinja_files=False)


def _corpus() -> list[str]:
    """Task text as a model meets it, the template's role names included."""
    pairs = demonstrations(LEVELS, _CORPUS_SIZE, wrong_steps=0.0, seed=0)
    return [f"user\n{question}\nassistant\n{completion}\n" for question, completion in pairs]
