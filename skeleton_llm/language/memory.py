"""Will a training step of stage 2 fit? Its memory, row by row, told from the model's configuration alone.

``LLMRecognizer``'s loss and its backward pass are rehearsed on tensors that have a shape but no storage. Each is
counted from its birth to its death, so that the forecast holds for any architecture. All sizes are bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from skeleton_llm.language.inputs import Inputs, decoder_layers
from skeleton_llm.language.ledger import HELD, Kernels, Ledger
from skeleton_llm.language.llm_recognizer import LLMRecognizer
from skeleton_llm.language.loading import LanguageModel
from skeleton_llm.language.tuning import Tuning

_FEW, _SOME = 2, 4  # layers that are rehearsed; all the others are like them
_NF4_BLOCK, _SCALES_BLOCK = 64, 256  # weights that share a scale, scales that share theirs
_LARGE = 4096  # 8-bit optimisers keep smaller tensors in 32 bits


def read_config(name: str, revision: str | None = None) -> Any:
    """A model's configuration without its weights: ``built-in``, a folder, or a hub id.

    Raises:
        FileNotFoundError: there is no such model.
    """
    spec = LanguageModel(name, revision)
    if name == "built-in" or Path(name).expanduser().is_dir():
        return spec.config()
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here, and the Hugging Face hub gave no config.json of it"
            f" ({str(error).strip().splitlines()[0]}); give a model folder, a hub id, or built-in"
        ) from error


@dataclass(frozen=True)
class Step:
    """Sizes of one micro-batch on one GPU.

    Args:
        batch: clips.
        tokens: of an action sentence.
        before: tokens of the prompt before it; read once for all clips but under gradient checkpointing and FSDP.
        after: tokens of the prompt after it.
        answer: tokens of the longest name, its end included.
    """

    batch: int
    tokens: int
    before: int = 9
    after: int = 12
    answer: int = 8


@dataclass(frozen=True)
class Setup:
    """How the model is held and where it runs.

    Args:
        dtype: of the frozen weights, as ``LanguageModel.dtype``.
        mixed: compute in ``dtype`` by autocast (Lightning's ``bf16-mixed`` and ``16-mixed``).
        attention: as ``LanguageModel.attention``.
        device: whose kernels; they keep different tensors for the backward pass.
        strategy: ``ddp`` holds a copy on each GPU, ``fsdp2`` and ``fsdp1`` share one out.
        gpus: how many.
        optimizer: as ``Optimization.optimizer``.
        input_map: as ``Inputs.map``.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    mixed: bool = False
    attention: Literal["sdpa", "eager"] = "sdpa"
    device: Literal["cpu", "cuda"] = "cuda"
    strategy: Literal["single", "ddp", "fsdp2", "fsdp1"] = "single"
    gpus: int = 1
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    input_map: bool = False

    @property
    def shards(self) -> int:
        """Among how many GPUs the weights are shared out."""
        return self.gpus if self.strategy.startswith("fsdp") else 1


class Forecast(NamedTuple):
    """What a step takes.

    Attributes:
        rows: bytes on one GPU at the fullest moment.
        flops: of one micro-batch, forward and backward.
        building: bytes on one GPU before the model is sharded; 0 where it is built elsewhere.
    """

    rows: dict[str, int]
    flops: int
    building: int = 0

    @property
    def total(self) -> int:
        """Bytes on one GPU."""
        return sum(self.rows.values())

    @property
    def needed(self) -> int:
        """Bytes that one GPU must have."""
        return max(self.total, self.building)


class Rehearsal:
    """A model without storage, ready to rehearse training steps.

    The gradients of an earlier micro-batch are always there: they are when batches are accumulated, and Lightning
    forgets them only after the forward pass else.

    Args:
        config: the model's configuration, as transformers' ``AutoConfig`` reads it.
        tuning: what learns.
        setup: how the model is held.
    """

    def __init__(self, config: Any, tuning: Tuning, setup: Setup) -> None:
        """Build and tune the model on the meta device."""
        self.tuning, self.setup, self.fake = tuning, setup, FakeTensorMode()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, setup.dtype), attn_implementation=setup.attention
            )
            model.requires_grad_(requires_grad=False)
            if tuning.quantization != "none":
                _pack(model, tuning.quantization)
            self.network = _Unspoken(tuning.apply(model), setup).train()
        with self.fake:
            _move(self.network)
        self.layers = decoder_layers(self.network.llm)

    @property
    def parameters(self) -> int:
        """How many weights the model has; packed ones count as what they stand for."""
        packed = [m for m in self.network.modules() if isinstance(m, _Packed)]
        extra = sum(m.in_features * m.out_features - m.weight.numel() for m in packed)
        return extra + sum(parameter.numel() for parameter in self.network.parameters())

    def forecast(self, step: Step) -> Forecast:
        """Memory and arithmetic of one training step."""
        if len({_shapes(layer) for layer in self.layers}) > 1 or len(self.layers) <= _SOME:
            working, updating, flops = self._rehearse(step)
        else:
            with self._first(_FEW):
                few = self._rehearse(step)
            with self._first(_SOME):
                some = self._rehearse(step)
            times = (len(self.layers) - _FEW) / (_SOME - _FEW)
            working, updating = (_extended(*rows, times) for rows in zip(few[:2], some[:2], strict=True))
            flops = round(few[2] + times * (some[2] - few[2]))
        rows = max(working, updating, key=lambda moment: sum(moment.values()))
        return Forecast({**rows, "communication": self._communication()}, flops, self._building())

    @contextmanager
    def _first(self, count: int) -> Iterator[None]:
        """Within it, the model has only its first layers."""
        others = list(self.layers)[count:]
        del self.layers[count:]
        try:
            yield
        finally:
            self.layers.extend(others)

    def _rehearse(self, step: Step) -> tuple[dict[str, int], dict[str, int], int]:
        """Rows at the fullest moment of forward and backward, and of the optimiser's update; the arithmetic."""
        share = dict.fromkeys(HELD, 1 / self.setup.shards)
        ledger = Ledger(self.network.llm.get_input_embeddings().num_embeddings, share)
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            ledger.born(tensor, "adapters" if tensor.requires_grad and self.tuning.mode != "full" else "weights")
        with self.fake, ledger:
            for parameter in learning:
                parameter.grad = torch.empty(parameter.shape, dtype=parameter.dtype)
                ledger.move(parameter.grad, "gradients")
            self._run(step)
        held = {row: ledger.alive[row] for row in HELD}
        for parameter in learning:
            parameter.grad = None
        states, passing = _optimiser(learning, self.setup)
        moments = {**ledger.peak, "optimiser": states}, {**held, "optimiser": states + passing}
        working, updating = ({row: round(size * share.get(row, 1)) for row, size in rows.items()} for rows in moments)
        return working, updating, ledger.flops

    def _run(self, step: Step) -> None:
        half = getattr(torch, self.setup.dtype)
        with Kernels() if self.setup.device == "cuda" else nullcontext():
            with torch.autocast("cpu", dtype=half) if self.setup.mixed else nullcontext():
                loss = self.network.step(step)
            # loss.backward() would leave Kernels, and so would what is computed again
            _engine_run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)

    def _communication(self) -> int:
        """DDP's copy of the gradients; FSDP's whole weights and gradients of the root and of two layers at a time."""
        if self.setup.gpus == 1 or self.setup.strategy == "single":
            return 0
        if self.setup.strategy == "ddp":
            return sum(_bytes(parameter) for parameter in self.network.parameters() if parameter.requires_grad)
        layers = [_gathered(layer.parameters()) for layer in self.layers]
        return _gathered(self.network.parameters()) - sum(layers) + 2 * max(layers)

    def _building(self) -> int:
        """All weights and adapters where every GPU quantises the whole model, of which it then keeps its share."""
        if self.setup.shards == 1 or self.tuning.quantization == "none":
            return 0
        return sum(_bytes(parameter) for parameter in self.network.parameters())

    def largest(self, step: Step, room: int, most: int) -> int:
        """Clips of the largest micro-batch up to ``most`` that fits into ``room`` bytes; 0 where not even one does.

        Memory is a convex function of the batch (the highest of several straight lines), so a chord lies above it.
        """

        def total(batch: int) -> int:
            return self.forecast(replace(step, batch=batch)).needed

        if (high := total(most)) <= room:
            return most
        if most == 1 or (low := total(1)) > room:
            return 0
        batch = 1 + int((most - 1) * (room - low) / (high - low))
        while batch + 1 < most and total(batch + 1) <= room:
            batch += 1
        return batch


class _Lengths(NamedTuple):
    """A prompt's lengths in place of its words."""

    before: int
    after: int
    end: int = 0

    def around(self, listed: None = None) -> tuple[list[int], list[int]]:  # noqa: ARG002  (Wording's signature)
        return [0] * self.before, [0] * self.after


class _Unspoken(LLMRecognizer):
    """The recogniser without words: its prompt has only lengths, and so have its answers."""

    width: int

    def __init__(self, llm: nn.Module, setup: Setup) -> None:
        nn.Module.__init__(self)
        self.llm, self.inputs, self._late = llm, Inputs(map=setup.input_map), None
        self.share_prefix = not setup.strategy.startswith("fsdp")
        self.width = llm.get_input_embeddings().embedding_dim  # type: ignore[operator]
        self.input_map = nn.Linear(self.width, self.width) if setup.input_map else None
        self.register_buffer("word_norm", torch.ones(()), persistent=False)

    def step(self, step: Step) -> Tensor:
        """The loss of one micro-batch."""
        self.wording = _Lengths(step.before, step.after)  # type: ignore[assignment]
        sentences = torch.empty(step.batch, step.tokens, self.width)
        mask = torch.ones(step.batch, step.tokens, dtype=torch.bool)
        return self.answer_loss(sentences, mask, torch.zeros(step.batch, step.answer, dtype=torch.long))

    @staticmethod
    def _together(there: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Without gaps already, and all answers are of one length."""
        length = there.shape[1] + answer.shape[1] - 1
        states = torch.arange(len(there))[:, None] * length + torch.arange(there.shape[1] - 1, length)
        return torch.arange(length).expand(len(there), -1), states.flatten(), answer.flatten()


class _Packed(nn.Linear):
    """A frozen linear layer of bitsandbytes: packed weights, unpacked for the length of one product."""

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, kind: str, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind, self.dtype = inputs, outputs, kind, dtype
        scales = -(-inputs * outputs // _NF4_BLOCK)
        nf4 = -(-inputs * outputs // 2) + scales + 4 * -(-scales // _SCALES_BLOCK)
        size = nf4 if kind == "nf4" else inputs * outputs + 4 * outputs
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False)
        self.bias = bias  # type: ignore[assignment]

    def forward(self, input: Tensor) -> Tensor:
        return _Unpacked.apply(input, self)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Packed) -> Tensor:
        ctx.layer = layer
        if layer.kind == "int8":
            ctx.kept = x  # bitsandbytes' 8-bit product keeps its input
        with torch.autocast("cpu", enabled=False):
            given = x.to(layer.dtype)
            return F.linear(given, given.new_empty(layer.out_features, layer.in_features), layer.bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ grad.new_empty(ctx.layer.out_features, ctx.layer.in_features), None


def _pack(model: Any, kind: str) -> None:
    """Pack every linear layer but the output head, as transformers does."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if layer is head or not isinstance(layer, (nn.Linear, Conv1D)):
                continue
            rows, columns = layer.weight.shape
            inputs, outputs = (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)
            setattr(parent, name, _Packed(inputs, outputs, layer.bias, kind, layer.weight.dtype))
    model.is_quantized = True


def _move(network: nn.Module) -> None:
    """Off the meta device, which knows no autocast and no fused kernels, onto a CPU without storage."""
    moved: dict[nn.Parameter, nn.Parameter] = {}  # weights that are tied stay so
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in moved:
                there = torch.empty(parameter.shape, dtype=parameter.dtype)
                moved[parameter] = nn.Parameter(there, requires_grad=parameter.requires_grad)
            setattr(module, name, moved[parameter])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _optimiser(learning: Iterable[nn.Parameter], setup: Setup) -> tuple[int, int]:
    """Bytes of the optimiser's states, and of what passes while it updates."""
    sizes = [parameter.numel() for parameter in learning]
    if setup.optimizer != "adamw":
        small = sum(8 * size for size in sizes if size < _LARGE)
        return small + sum(2 * size + 8 * -(-size // 256) for size in sizes if size >= _LARGE), 0
    passing = 4 * sum(sizes) if setup.device == "cuda" else 8 * max(sizes)  # all at once, or one after another
    return sum(8 * size + 4 for size in sizes), passing


def _extended(few: Mapping[str, int], some: Mapping[str, int], times: float) -> dict[str, int]:
    """Each row of a model with more layers."""
    return {row: round(few.get(row, 0) + times * (size - few.get(row, 0))) for row, size in some.items()}


def _shapes(layer: nn.Module) -> tuple[torch.Size, ...]:
    return tuple(parameter.shape for parameter in layer.parameters())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _gathered(parameters: Iterable[nn.Parameter]) -> int:
    """Weights, and gradients of those that learn."""
    return sum(_bytes(parameter) * (2 if parameter.requires_grad else 1) for parameter in parameters)
