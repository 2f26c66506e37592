"""A language model in shards, one a rank: FSDP2 (torch's ``fully_shard``) for what does not fit one GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from skeleton_llm.language import LLMRecognizer
from skeleton_llm.language.inputs import decoder_layers


class FSDP2(ModelParallelStrategy):
    """Every rank holds its share of each weight and reads its own clips.

    Lightning's own default would be one data-parallel rank a node: all GPUs of a node would read the same clips.
    Checkpoints are single files of what learns, gathered by rank 0; the base model is not gathered for them.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size = self.world_size

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None, "the trainer sets it"
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the file holds; Lightning keeps the weights to itself, but the module checks their names."""
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = super().load_checkpoint(path, weights_only)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        return {**checkpoint, "state_dict": weights}


def shard(network: LLMRecognizer, mesh: DeviceMesh) -> None:
    """Split every weight over ``mesh``, a decoder layer at a time, then the words, the head and the map together.

    What learns is first made rank 0's, so that ranks with other seeds begin alike. Prompts share no prefix: its
    gradients come through the cache, and torch gathers a layer again only for those through the layer's output.
    """
    network.share_prefix = False
    for parameter in network.parameters():
        if parameter.requires_grad:
            whole = parameter.data.to(mesh.device_type)
            distributed.broadcast(whole, 0)
            parameter.data.copy_(whole)
    modules: list[Any] = list(network.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # would repack NF4 weights in place, which shards do not bear
    for layer in decoder_layers(network.llm):
        fully_shard(layer, mesh=mesh)
    llm: Any = network.llm
    llm.generate = partial(llm.generate, synced_gpus=False)  # Hugging Face's own step-keeping leaves out idle ranks
    for name in ("score", "generate"):
        setattr(network, name, _in_step(network, getattr(network, name)))
    fully_shard(network, mesh=mesh)
    for name in ("loss", "score", "generate"):
        register_fsdp_forward_method(network, name)


def _in_step(network: LLMRecognizer, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, after which a rank goes on calling the model until every rank is done.

    Each call gathers every layer from all ranks, and how many calls an answer takes differs from clip to clip.
    """
    first = decoder_layers(network.llm)[0]

    def announce(layer: nn.Module, inputs: Any) -> None:
        _join(network)

    @wraps(method)
    def joined(*args: Any, **kwargs: Any) -> Any:
        hook = first.register_forward_pre_hook(announce, prepend=True)
        try:
            out = method(*args, **kwargs)
        finally:
            hook.remove()
        words = network.llm.get_input_embeddings().weight  # type: ignore[operator]
        while _join(network, 0.0) > 0:
            with torch.no_grad():
                network.llm(inputs_embeds=words.new_zeros(1, 1, words.shape[1]), use_cache=False)
        return out

    return joined


def _join(network: LLMRecognizer, busy: float = 1.0) -> Tensor:
    """How many ranks are about to call the model; all ask together, and only those that are done wait to know."""
    ranks = network.word_norm.new_tensor(busy)
    distributed.all_reduce(ranks)
    return ranks


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Within it, what learns stands there whole on rank 0; nothing may compute or move."""
    shards = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and isinstance(parameter, DTensor)
    ]
    whole: dict[DTensor, nn.Parameter] = {}  # one for weights that are tied
    for module, name, parameter in shards:
        if parameter not in whole:
            tensor = parameter.full_tensor().detach()
            whole[parameter] = nn.Parameter(tensor.cpu() if distributed.get_rank() == 0 else tensor[:0].clone())
        module._parameters[name] = whole[parameter]
    try:
        yield
    finally:
        for module, name, parameter in shards:
            module._parameters[name] = parameter
