"""Many continuations of a prompt through one key-value cache: each new word sees the prompt and its own ancestors.

B prompts of P places, S places shared by all, D width, N words read now, M words read behind the prompt, V words.
"""

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache


def read_prefix(llm: nn.Module, prefix: Float[Tensor, "S D"]) -> Cache:
    """The cache of a beginning that every prompt shares; good until the model's weights or the prefix change."""
    out = llm(inputs_embeds=prefix[None], past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
    return out.past_key_values


def read_prompt(
    llm: nn.Module, prompt: Float[Tensor, "B P D"], mask: Bool[Tensor, "B P"], prefix: Cache | None = None
) -> tuple[Float[Tensor, "B 1 V"], Cache]:
    """Logits behind each prompt's last real place, wherever its padding stands, and the cache of all places.

    The cache has full layers also where the model has windows: words of many branches share it (``refuse_window``).

    Raises:
        ValueError: a prompt is padded where ``prefix`` stands.
    """
    cache: Cache = DynamicCache() if prefix is None else copy.deepcopy(prefix)
    shared = cache.get_seq_length()
    if shared:
        if not mask[:, :shared].all():
            raise ValueError(f"the first {shared} places of each prompt are the prefix, found padding; pad behind them")
        cache.batch_repeat_interleave(len(prompt))
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).amax(1)
    columns, column = (last - shared).unique(return_inverse=True)  # one, unless the padding is on the right
    out = llm(
        inputs_embeds=prompt[:, shared:],
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=columns,
    )
    return out.logits[torch.arange(len(prompt), device=mask.device), column][:, None], out.past_key_values


def read_nodes(
    llm: nn.Module,
    cache: Cache,
    mask: Bool[Tensor, "B P"],
    tokens: Int[Tensor, "B N"],
    depths: Int[Tensor, "B N"],
    seen: Bool[Tensor, "B N M"],
) -> Float[Tensor, "B N V"]:
    """Logits behind each new word; they join the cache as the last N of the M words behind the prompt.

    Args:
        llm: causal language model with sdpa or eager attention.
        cache: of the prompt and the M - N words before.
        mask: which places of the prompt count.
        tokens: the new words.
        depths: how far behind the prompt each one stands, 1 for the first word of an answer.
        seen: which words each new one looks at, itself included.
    """
    allowed = torch.cat([mask[:, None].expand(-1, tokens.shape[1], -1), seen], dim=-1)[:, None]  # [B, 1, N, P + M]
    dtype: torch.dtype = cache.layers[0].keys.dtype  # type: ignore[union-attr]
    bias = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
    return llm(
        input_ids=tokens,
        attention_mask=bias.masked_fill_(~allowed, torch.finfo(dtype).min),
        position_ids=mask.sum(1, keepdim=True) + depths - 1,
        past_key_values=cache,
        use_cache=True,
    ).logits


def sliding_window(config: Any) -> int | None:
    """How many places back the layers with a window look; None where the model has no such layer."""
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None


def refuse_window(llm: nn.Module, length: int) -> None:
    """Refuse a model that would look back less far than ``length`` places, prompt and longest name together.

    Raises:
        ValueError: its sliding window is shorter.
    """
    window = sliding_window(llm.config)
    if window is not None and length > window:
        raise ValueError(
            f"the llm's sliding_window is {window} and prompt and class name take {length} places;"
            " shorten the prompt or use an llm with a longer window"
        )
