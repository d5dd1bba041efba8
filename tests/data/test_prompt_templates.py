from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dft_sweeps.data.encode import encode
from dft_sweeps.data.prompt_templates import TEMPLATE_FILE, TEMPLATES, Prompts, choose_template
from dft_sweeps.data.sources import Demonstration
from dft_sweeps.data.tokenizer import build_tokenizer
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import ArithmeticSource, DataSpec
from dft_sweeps.training.model_files import EMBEDDED

BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
PUBLISHED = {
    "qwen_boxed": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is $1+1$?"
    + BOXED
    + "<|im_end|>\n<|im_start|>assistant\n",
    "llama_base_boxed": "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|end_of_text|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is $1+1$?"
    + BOXED
    + "<|end_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "deepseek_math": "User: What is $1+1$?" + BOXED + "\n\nAssistant:",
}
"""What the published harness hands to its engine for the question "What is $1+1$?", but for the tokens that a tokenizer
begins texts with."""
TOKENS = {
    "qwen_boxed": ["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
    "llama_base_boxed": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ],
    "deepseek_math": ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"],
}
"""Special tokens of each family's tokenizers."""


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens of a family, without a chat template; it begins texts as the family's do."""
    from tokenizers import processors

    tokenizer = build_tokenizer(max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS[family]})
    tokenizer.chat_template = None
    if family != "qwen_boxed":
        begin = TOKENS[family][0]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))]
        )
        tokenizer.eos_token = TOKENS[family][1]
    else:
        tokenizer.unk_token = "<|endoftext|>"  # as of Qwen2's tokenizers
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(max_length=512)


@pytest.mark.parametrize("family", TEMPLATES)
def test_prompts_are_the_published_harness_s(family: str) -> None:
    prompts = Prompts(family_tokenizer(family), family)
    assert prompts.text("What is $1+1$?" + BOXED) == PUBLISHED[family]
    begin = "" if family == "qwen_boxed" else TOKENS[family][0]
    assert prompts.tokenizer.decode(prompts.ids("What is $1+1$?" + BOXED)) == begin + PUBLISHED[family]


@pytest.mark.parametrize("family", TEMPLATES)
def test_answers_end_at_the_family_s_own_tokens(family: str) -> None:
    prompts = Prompts(family_tokenizer(family), family)
    ends = {
        "qwen_boxed": {"<|im_end|>", "<|endoftext|>"},
        "llama_base_boxed": {"<|end_of_text|>", "<|eot_id|>"},
        "deepseek_math": {"<\uff5cend\u2581of\u2581sentence\uff5c>"},
    }
    assert {prompts.tokenizer.convert_ids_to_tokens(id_) for id_ in prompts.stop_token_ids} == ends[family]


def test_chat_is_the_tokenizer_s_own_template_up_to_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = Prompts(tokenizer)
    written = tokenizer.decode(prompts.ids("What is 12+34?"))
    assert written == "<|im_start|>user\nWhat is 12+34?<|im_end|>\n<|im_start|>assistant\n"
    assert prompts.stop_token_ids == (tokenizer.eos_token_id,)


@pytest.mark.parametrize("family", ["chat", "qwen_boxed"])
def test_training_writes_the_prompts_that_evaluation_asks(tokenizer: PreTrainedTokenizerFast, family: str) -> None:
    prompts, data = Prompts(tokenizer, family), DataSpec(source=ArithmeticSource(kind="arithmetic", samples=1))
    sample = encode([Demonstration("What is 1+1?", "done")], data, prompts)[0]
    assert prompts.ids("What is 1+1?") == sample.ids[: sample.prompt_length]


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", "qwen_boxed"),
        ("Qwen/Qwen2.5-Math-7B", "qwen_boxed"),
        ("Qwen/Qwen2.5-Math-7B-Instruct", "chat"),
        ("Qwen/Qwen2.5-1.5B", "chat"),
        ("meta-llama/Llama-3.2-3B", "llama_base_boxed"),
        ("meta-llama/Llama-3.1-8B", "llama_base_boxed"),
        ("meta-llama/Meta-Llama-3-8B", "llama_base_boxed"),
        ("meta-llama/Llama-3.2-3B-Instruct", "chat"),
        ("deepseek-ai/deepseek-math-7b-base", "deepseek_math"),
        ("deepseek-ai/deepseek-math-7b-rl", "chat"),
        ("embedded", "chat"),
    ],
)
def test_auto_chooses_by_the_model(path: str, family: str, tmp_path: Path) -> None:
    assert choose_template("auto", path, tmp_path) == family
    assert choose_template("deepseek_math", path, tmp_path) == "deepseek_math"


def test_a_checkpoint_s_own_record_comes_before_its_name(tmp_path: Path) -> None:
    (tmp_path / TEMPLATE_FILE).write_text("llama_base_boxed\n")
    assert choose_template("auto", "Qwen/Qwen2.5-Math-1.5B", tmp_path) == "llama_base_boxed"


def test_digest_follows_template_and_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    same, other_template, other_vocabulary = (build_tokenizer(max_length=512) for _ in range(3))
    assert Prompts(same).digest == Prompts(tokenizer).digest
    other_template.chat_template = other_template.chat_template.replace("assistant", "solver")
    other_vocabulary.add_tokens(["What is"])
    others = [Prompts(each).digest for each in (tokenizer, other_template, other_vocabulary)]
    assert len({*others, Prompts(tokenizer, "qwen_boxed").digest}) == 4


def test_the_full_digest_follows_the_whole_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    other = build_tokenizer(max_length=512)
    other.add_tokens(["Zebra"])  # not in the probe
    same = build_tokenizer(max_length=512)
    same(["a", "bb"], padding=True, truncation=True, max_length=1)  # leaves its settings behind
    ours, its, again = (Prompts(each) for each in (tokenizer, other, same))
    assert ours.ids("A Zebra.") != its.ids("A Zebra.")
    assert ours.digest == its.digest
    assert ours.full_digest != its.full_digest
    assert again.full_digest == ours.full_digest


def test_the_full_digest_of_the_embedded_tokenizer_is_the_plain_one(tmp_path: Path) -> None:
    """Else whatever was evaluated with it would be evaluated again."""
    prompts = Prompts(AutoTokenizer.from_pretrained(EMBEDDED))
    assert prompts.full_digest == prompts.digest
    shutil.copy(EMBEDDED / "config.json", tmp_path)
    prompts.tokenizer.save_pretrained(tmp_path)
    assert Prompts(AutoTokenizer.from_pretrained(tmp_path)).full_digest == prompts.digest


def test_what_a_tokenizer_lacks_is_said() -> None:
    bare = build_tokenizer(max_length=512)
    bare.chat_template = None
    with pytest.raises(SpecError, match=r"no chat template.*set evaluation\.template .*: qwen_boxed, llama_base_boxed"):
        Prompts(bare)
    with pytest.raises(SpecError, match=r"no token '<\|end_of_text\|>', which ends an answer under llama_base_boxed"):
        Prompts(bare, "llama_base_boxed")
