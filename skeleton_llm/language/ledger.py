"""Memory and arithmetic of a computation on tensors that have a shape but no storage.

Each storage is counted from its birth to its death. All sizes are bytes.
"""

import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

HELD = ("weights", "adapters", "gradients", "optimiser")  # rows that stay from step to step


class Ledger(TorchDispatchMode):
    """Bytes alive, by row, the rows at the fullest moment, and the arithmetic.

    Args:
        vocabulary: V; what ends in it are logits.
        share: what part of a row lies on this GPU, if not all.
    """

    def __init__(self, vocabulary: int, share: Mapping[str, float]) -> None:
        super().__init__()
        self.vocabulary, self.share = vocabulary, share
        self.alive: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.total = self.most = 0.0
        self.flops = 0
        self.rows: dict[int, str] = {}  # of each storage, by its address

    def _add(self, row: str, size: int) -> None:
        self.alive[row] += size
        self.total += size * self.share.get(row, 1)
        if self.total > self.most:
            self.most, self.peak = self.total, self.alive.copy()

    def born(self, tensor: Tensor, row: str) -> None:
        """Count the tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.rows:
            self.rows[key] = row
            weakref.finalize(storage, self._died, key, size).atexit = False
            self._add(row, size)

    def _died(self, key: int, size: int) -> None:
        self._add(self.rows.pop(key), -size)

    def move(self, tensor: Tensor, row: str) -> None:
        """Count what is there under another row."""
        storage = tensor.untyped_storage()
        before, self.rows[storage._cdata] = self.rows[storage._cdata], row
        self._add(before, -storage.nbytes())
        self._add(row, storage.nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self.born(tensor, self._row(func, args, tensor))
        return out

    def _row(self, func: Any, args: Any, tensor: Tensor) -> str:
        if func is torch.ops.aten._to_copy.default and self.rows.get(args[0].untyped_storage()._cdata) in HELD:
            return "cast weights"
        return "logits" if tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary else "activations"


class Kernels(TorchFunctionMode):
    """CUDA's kernels where they keep other tensors than a CPU's: attention, dropout, float32 under autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _efficient_attention(*args, **kwargs)
        if func is F.dropout:
            return _fused_dropout(*args, **kwargs)
        if func in (F.layer_norm, torch.pow) and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Keeps one byte a value, where a CPU keeps a float."""
    return torch.ops.aten.native_dropout(input, p, True)[0] if training and p else input


def _efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The memory-efficient kernel: every GPU since Volta has it, and it takes masks."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (part.to(torch.get_autocast_dtype("cpu")) for part in (query, key, value))
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
