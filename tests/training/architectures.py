"""Tiny random models of several architectures, with weights large enough for attention to matter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

WINDOW = 5
_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
FIELDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2_tied": {"tie_word_embeddings": True},
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "gemma3_text": {"sliding_window": WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neox": {},
    "gpt2": _GPT2,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "nemotron": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": None},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
    "qwen3_5_text": {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
}


def tiny(name: str, **fields: Any) -> PreTrainedModel:
    """A model by its entry in FIELDS, in evaluation mode, in float32."""
    sizes = {"vocab_size": 97} if name in ("gpt2", "bloom") else _SIZES
    config = AutoConfig.for_model(name.removesuffix("_tied"), **{**sizes, **FIELDS[name], **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    return model.eval()
