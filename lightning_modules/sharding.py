"""A language model in shards, one a rank, for what does not fit one GPU: FSDP2 (torch's ``fully_shard``) and FSDP1."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    OptimStateKeyType,
    StateDictType,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.fsdp import FullyShardedDataParallel as Unit
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.distributed.tensor import DTensor

from skeleton_llm import shards
from skeleton_llm.language import LLMRecognizer
from skeleton_llm.language.inputs import decoder_layers

_ANSWERS = ("score", "best", "generate")  # methods that call the model as often as the clips need
_WRAPPER = "_fsdp_wrapped_module."  # FSDP1 puts it into names


class FSDP2(ModelParallelStrategy):
    """Every rank holds its share of each weight and reads its own clips.

    Lightning's own default would be one data-parallel rank a node: all GPUs of a node would read the same clips.
    Checkpoints hold what learns; the base model is not gathered for them.

    Args:
        sharded_checkpoints: every rank writes its share, and a checkpoint is a folder: for full tuning of models that
            are too large for rank 0 to gather. Otherwise it is a file, which suits adapters.
    """

    def __init__(self, *, sharded_checkpoints: bool = False) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=sharded_checkpoints)

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size = self.world_size

    def split(self, network: LLMRecognizer) -> None:
        """Shard a decoder layer at a time, then the words, the head and the map together."""
        _prepare(network, self.root_device)
        mesh = self.device_mesh["data_parallel"]
        for layer in decoder_layers(network.llm):
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
        for name in ("loss", *_ANSWERS):
            register_fsdp_forward_method(network, name)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it, what learns stands there whole on rank 0; nothing may compute or move."""
        shards = [
            (module, name, parameter)
            for module in self.lightning_module.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and isinstance(parameter, DTensor)
        ]
        whole: dict[DTensor, nn.Parameter] = {}  # one for weights that are tied
        for module, name, parameter in shards:
            if parameter not in whole:
                tensor = parameter.full_tensor().detach()
                whole[parameter] = nn.Parameter(tensor.cpu() if self.global_rank == 0 else tensor[:0].clone())
            module._parameters[name] = whole[parameter]
        try:
            yield
        finally:
            for module, name, parameter in shards:
                module._parameters[name] = parameter

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._weights(whole=not self._save_distributed_checkpoint)

    def _weights(self, *, whole: bool) -> dict[str, Any]:
        """What learns, and all buffers: whole on rank 0's CPU, or each rank's share where it is."""
        assert self.model is not None, "the trainer sets it"
        options = StateDictOptions(full_state_dict=whole, cpu_offload=whole, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def _averages(self, optimizer: Any) -> dict[str, Any]:
        """Each rank's share of the optimiser's state where it is, by the weights' names."""
        assert self.model is not None, "the trainer sets it"
        return get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer))

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return self._averages(optimizer) if self._save_distributed_checkpoint else super().optimizer_state(optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        optimizers = checkpoint.get("optimizer_states", [])
        tensors = {f"{shards.WEIGHTS}{name}": tensor for name, tensor in checkpoint.pop("state_dict").items()}
        tensors |= _named(optimizers)
        for state in optimizers:
            del state["state"]
        shards.write(Path(self.broadcast(filepath)), tensors, checkpoint)

    def remove_checkpoint(self, filepath: Any) -> None:
        if not Path(filepath).is_dir():
            super().remove_checkpoint(filepath)
        elif self.is_global_zero:
            shards.remove(Path(filepath))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the checkpoint holds; Lightning keeps the weights to itself, but the module checks their names."""
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            return self._load_shards(path)
        checkpoint = super().load_checkpoint(path, weights_only)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        return {**checkpoint, "state_dict": weights}

    def _load_shards(self, path: Path) -> dict[str, Any]:
        """Written by as many ranks as one likes; each reads what is its own here."""
        rest, saved = shards.contents(path)
        weights = {f"{shards.WEIGHTS}{name}": tensor for name, tensor in self._weights(whole=False).items()}
        states = [self._averages(optimizer) for optimizer in self.optimizers]
        here = {name: tensor for name, tensor in (weights | _named(states)).items() if name in saved}
        shards.fill(path, here)
        for optimizer, state, groups in zip(self.optimizers, states, rest.get("optimizer_states", []), strict=False):
            set_optimizer_state_dict(self.model, optimizer, {**state, **groups})
        names = {name.removeprefix(shards.WEIGHTS) for name in saved if name.startswith(shards.WEIGHTS)}
        return {**rest, "state_dict": dict.fromkeys(names)}  # which are where they belong


class FSDP1(FSDP2):
    """The same by ``FullyShardedDataParallel``, which flattens the weights of a unit into one tensor.

    They must be of one dtype, and cost least where all learn or none. PEFT's policy
    (``peft.utils.other.fsdp_auto_wrap_policy``) makes units of the decoder layers, and of the layers within them that
    learn beside others that do not; the whole module is the outermost unit, through which its steps are called.
    """

    whole: Any = None

    def __init__(self) -> None:
        super().__init__()

    def split(self, network: LLMRecognizer) -> None:
        """Nothing yet: torch wants all units at once, when the module is complete."""
        _prepare(network, self.root_device)

    def setup(self, trainer: Any) -> None:
        assert self.accelerator is not None, "the trainer sets it"
        self.accelerator.setup(trainer)
        if self.whole is None:  # a test after a fit finds it
            self.whole = _wrap(self.lightning_module, self.root_device)
        self.model = self.whole
        self.barrier()
        plugin: Any = self.precision_plugin
        plugin.clip_grad_by_norm = lambda optimizer, clip_val: self.whole.clip_grad_norm_(clip_val)
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    @contextmanager
    def gathered(self, *, write: bool = False) -> Iterator[None]:
        """The same; with ``write`` on every rank, and what changes there goes back into the shards."""
        modules = [*self.lightning_module.modules()]
        units = [(parent, *unit) for parent in modules for unit in parent.named_children() if isinstance(unit[1], Unit)]
        how = {"writeback": write, "rank0_only": not write}
        how["offload_to_cpu"] = not write and self.root_device.type != "cpu"
        with ExitStack() as stack:
            for unit in Unit.fsdp_modules(self.whole):
                if unit._has_params and unit._flat_param.requires_grad:
                    stack.enter_context(Unit.summon_full_params(unit, recurse=False, **how))
            for parent, name, unit in units:  # a unit's own state_dict would ask all ranks once more
                parent._modules[name] = unit.module
            try:
                yield
            finally:
                for parent, name, unit in units:
                    parent._modules[name] = unit

    def lightning_module_state_dict(self) -> dict[str, Any]:
        module = self.lightning_module
        with self.gathered():
            frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
            state = {name: tensor.clone() for name, tensor in module.state_dict().items() if name not in frozen}
        return state if self.global_rank == 0 else {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """AdamW's averages, gathered one kind at a time: on a CPU torch gathers both into the same memory."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        mine, kinds = optimizer.state_dict(), []
        config = FullOptimStateDictConfig(rank0_only=True)
        with Unit.state_dict_type(self.whole, StateDictType.FULL_STATE_DICT, optim_state_dict_config=config):
            for average in ("exp_avg", "exp_avg_sq"):
                part = {key: {name: state[name] for name in ("step", average)} for key, state in mine["state"].items()}
                kinds.append(Unit.optim_state_dict(self.whole, optimizer, {**mine, "state": part}))
        if self.global_rank != 0:
            return {}
        for name, state in kinds[1]["state"].items():
            kinds[0]["state"][name] |= state
        return Unit.rekey_optim_state_dict(kinds[0], OptimStateKeyType.PARAM_ID, self.whole)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = shards.read(path)
        with self.gathered(write=True):
            self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=False)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            named = Unit.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.whole)
            set_optimizer_state_dict(self.whole, optimizer, named, options=StateDictOptions(full_state_dict=True))
        return checkpoint


def _named(optimizers: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    """Every tensor of optimisers' states by a name of its own."""
    return {
        f"optimizer.{number}.{kind}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for name, state in optimizer["state"].items()
        for kind, tensor in state.items()
    }


StrategyRegistry.register("fsdp1", FSDP1)
StrategyRegistry.register("fsdp2", FSDP2)


def _wrap(module: Any, device: torch.device) -> Unit:
    """FSDP1's units; all but the network is left as it is."""
    network = module.network
    others = [child.to(device) for child in module.children() if child is not network]
    layers, inner = [*decoder_layers(network.llm)], {*network.llm.modules()}
    mixed = not all(parameter.requires_grad for parameter in network.parameters())

    def apart(part: nn.Module) -> bool:
        leaf = part in inner and not [*part.children()] and getattr(part, "weight", None) is not None
        return part in layers or (mixed and leaf and bool(part.weight.requires_grad))

    policy = partial(lambda_auto_wrap_policy, lambda_fn=apart)
    whole = Unit(module, auto_wrap_policy=policy, ignored_modules=others, device_id=device, use_orig_params=True)
    with Unit.summon_full_params(whole, recurse=False, writeback=False):
        return whole  # whichever unit is asked first takes itself for the outermost


def learning(module: nn.Module) -> set[str]:
    """Names of what learns, sharded or not."""
    return {name.replace(_WRAPPER, "") for name, parameter in module.named_parameters() if parameter.requires_grad}


def _prepare(network: LLMRecognizer, device: torch.device) -> None:
    """Make ranks alike and keep them in step.

    What learns is made rank 0's, so that ranks with other seeds begin alike. Prompts share no prefix: its gradients
    come through the cache, and torch gathers a layer again only for those through the layer's output.
    """
    network.share_prefix = False
    for parameter in network.parameters():
        if parameter.requires_grad:
            whole = parameter.data.to(device)
            distributed.broadcast(whole, 0)
            parameter.data.copy_(whole)
    llm: Any = network.llm
    llm.generate = partial(llm.generate, synced_gpus=False)  # Hugging Face's own step-keeping leaves out idle ranks
    for name in _ANSWERS:
        setattr(network, name, _in_step(network, getattr(network, name)))


def _in_step(network: LLMRecognizer, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, after which a rank goes on calling the model until every rank is done.

    Each call gathers every layer from all ranks, and how many calls an answer takes differs from clip to clip.
    """

    def announce(layer: nn.Module, inputs: Any) -> None:
        _join(network)

    @wraps(method)
    def joined(*args: Any, **kwargs: Any) -> Any:
        first = decoder_layers(network.llm)[0]  # as it is now: FSDP1 puts a unit in its place
        hook = first.register_forward_pre_hook(announce, prepend=True)
        try:
            out = method(*args, **kwargs)
        finally:
            hook.remove()
        words = network.llm.get_input_embeddings().weight
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
