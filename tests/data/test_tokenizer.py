from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dft_sweeps.data.arithmetic import LEVELS, demonstrations
from dft_sweeps.data.tokenizer import SPECIAL_TOKENS, VOCABULARY_SIZE, build_tokenizer, save_tokenizer

SHIPPED = Path(__file__).parents[2] / "dft_sweeps" / "data" / "base_model"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """The tokenizer as others meet it: saved and loaded again."""
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory, max_length=4096)
    return AutoTokenizer.from_pretrained(directory)


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_byte_and_every_special_token_is_in_the_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= VOCABULARY_SIZE
    assert tokenizer.unk_token is None
    every_byte = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code % 97 == 0]
    assert tokenizer.decode(tokenizer.encode("".join(every_byte))) == "".join(every_byte)
    for token in SPECIAL_TOKENS:
        assert tokenizer.encode(token) == [tokenizer.convert_tokens_to_ids(token)]


def test_latex_is_tokenised_without_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    latex = r"$\frac{\sqrt{3}}{2} \le \int_0^{\pi} \sin^2 x\,dx$ — hence \boxed{\dfrac{π}{2}}"
    assert tokenizer.decode(tokenizer.encode(latex)) == latex


def test_each_digit_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("90210+48") == ["9", "0", "2", "1", "0", "+", "4", "8"]
    assert tokenizer.tokenize("cost 12.50")[-5:] == ["1", "2", ".", "5", "0"]


def test_the_chat_template_is_chatml_without_a_system_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": "What is 12+34?"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nWhat is 12+34?<|im_end|>\n<|im_start|>assistant\n"
    full = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": "46"}], tokenize=False)
    assert full == prompt + "46<|im_end|>\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


@pytest.mark.parametrize(("level", "mean", "longest"), [(1, 50, 70), (2, 63, 90), (3, 77, 110)])
def test_demonstrations_are_short(tokenizer: PreTrainedTokenizerFast, level: int, mean: float, longest: int) -> None:
    texts = [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{completion}<|im_end|>\n"
        for question, completion in demonstrations([level], 1000, 0.2, 0)
    ]
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    assert sum(lengths) / len(lengths) < mean and max(lengths) <= longest


def test_building_twice_gives_the_shipped_tokenizer() -> None:
    built = build_tokenizer(max_length=4096).backend_tokenizer.to_str()
    assert built == build_tokenizer(max_length=4096).backend_tokenizer.to_str()
    shipped = AutoTokenizer.from_pretrained(SHIPPED)
    assert shipped.get_vocab() == build_tokenizer(max_length=4096).get_vocab()
    assert LEVELS == (1, 2, 3)
