"""Random language models of every family, two layers of width 32, with the built-in text tokenizer, as folders."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from skeleton_llm.language import LanguageModel

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256,
}  # fmt: skip
_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES = {
    "llama": ("llama", _SIZES | {"num_key_value_heads": 4}),
    "llama3": ("llama", _SIZES | {"rope_parameters": _ROPE}),
    "mistral": ("mistral", _SIZES | {"head_dim": 8}),
    "qwen2": ("qwen2", _SIZES),
    "qwen3": ("qwen3", _SIZES | {"head_dim": 8}),
    "smollm": ("smollm3", _SIZES),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
}


def write(folder: Path, family: str, *, tied: bool = True, shard: str = "1GB") -> Path:
    """A folder in Hugging Face form."""
    kind, sizes = FAMILIES[family]
    text = LanguageModel().tokenizer()
    special = {"bos_token_id": text.bos_token_id, "eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
    config = AutoConfig.for_model(kind, vocab_size=len(text), tie_word_embeddings=tied, **special, **sizes)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=shard)
    text.save_pretrained(folder)
    return folder
