"""How much of the language model learns (LLM-AR Eq. 13; Hu et al. 2022), and on what it can."""

from dataclasses import dataclass, field
from typing import Literal

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from skeleton_llm.language.loading import Quantization

Mode = Literal["lora", "qlora", "int8", "full", "frozen"]
_EVERY = "all-linear"
_FUSED = ("c_attn", "qkv_proj", "query_key_value")  # q, k and v in one layer: GPT-2, Phi-3, GPT-NeoX


@dataclass
class Tuning:
    """Tuning mode; the defaults are LLM-AR's.

    Args:
        mode: ``lora``; ``qlora``, LoRA on a base in 4 bits (NF4); ``int8``, LoRA on a base in 8 bits (LLM.int8);
            ``full``, every weight in float32 (the paper's ablation); ``frozen``.
        r: rank of the adapters.
        alpha: their scale is alpha / r.
        dropout: on the adapters' input.
        targets: the linear layers that get an adapter, by the end of their names; ``all-linear`` for every one.
        rslora: scale by alpha / sqrt(r) instead (Kalajdzievski 2023).
        dora: learn the magnitude of the weights apart from their direction (Liu et al. 2024).
        gradient_checkpointing: keep what enters each decoder layer and compute the rest again in the backward pass: far
            less memory for about a third more time.
    """

    mode: Mode = "lora"
    r: int = 64
    alpha: int = 16
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    rslora: bool = False
    dora: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be combined."""
        if (self.rslora or self.dora) and not self.adapts:
            raise ValueError(
                f"tuning.rslora and tuning.dora are of adapters, and tuning.mode {self.mode} has none;"
                " set them back or take the mode lora"
            )

    @property
    def adapts(self) -> bool:
        """Whether adapters learn beside a frozen base."""
        return self.mode in ("lora", "qlora", "int8")

    @property
    def quantization(self) -> Quantization:
        """How the base must be loaded."""
        kinds: dict[str, Quantization] = {"qlora": "nf4", "int8": "int8"}
        return kinds.get(self.mode, "none")

    def apply(self, model: PreTrainedModel, actions: range = range(0)) -> nn.Module:
        """``model`` with the right weights trainable, wrapped by PEFT for adapters, which are float32.

        Args:
            model: loaded with ``quantization``.
            actions: ids of words whose embeddings learn too.

        Raises:
            ValueError: no layer has a target's name, or the model was loaded with another quantisation.
        """
        if getattr(model, "is_quantized", False) != (self.quantization != "none"):
            raise ValueError(
                f"tuning.mode {self.mode} cannot train weights quantised otherwise than {self.quantization};"
                " load the model with tuning.quantization"
            )
        if self.mode == "full":
            model.float().requires_grad_()
        tuned = get_peft_model(model, self._adapters(model, actions)) if self.adapts else model
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return tuned

    def check_targets(self, model: PreTrainedModel) -> None:
        """Refuse targets that ``model`` has not; its weights are not looked at (``LanguageModel.outline``).

        Raises:
            ValueError: no linear layer has a target's name.
        """
        layers = {
            name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D)
        }
        missing = [target for target in self.targets if target not in layers]
        if self.adapts and _EVERY not in self.targets and missing:
            fused = [name for name in _FUSED if name in layers]
            known = f"its q, k and v are one layer, {fused[0]}" if fused else f"it has {', '.join(sorted(layers))}"
            raise ValueError(
                f"tuning.targets {missing} name no layer of {type(model).__name__} that takes an adapter: {known};"
                f" name these, or {_EVERY}"
            )

    def _adapters(self, model: PreTrainedModel, actions: range) -> LoraConfig:
        self.check_targets(model)
        words = next(name for name, part in model.named_modules() if part is model.get_input_embeddings())
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=_EVERY if _EVERY in self.targets else self.targets,
            use_rslora=self.rslora,
            use_dora=self.dora,
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
            trainable_token_indices={words.rsplit(".", 1)[-1]: list(actions)} if actions else None,
            bias="none",
            task_type="CAUSAL_LM",
        )


STRATEGIES = ("single", "ddp", "fsdp2", "fsdp1")
_FSDP2 = "configs/hardware/fsdp2.yaml"


def refuse(mode: str, strategy: str, accelerator: str, optimizer: str = "adamw") -> None:
    """Nothing where the four go together (the table of docs/stage2.md).

    Args:
        mode: ``tuning.mode``.
        strategy: one of ``STRATEGIES``; others are refused.
        accelerator: ``cpu``, ``cuda`` or another device's name.
        optimizer: ``optimization.optimizer``.

    Raises:
        ValueError: they do not; says why, and what is nearest.
    """
    if strategy in ("fsdp", "fsdp_cpu_offload", "FSDPStrategy"):
        raise ValueError(
            f"trainer.strategy {strategy} flattens what learns together with what does not, whatever their dtypes;"
            f" take {_FSDP2}, or trainer.strategy fsdp1, which keeps them apart as PEFT does"
        )
    if strategy not in STRATEGIES:
        raise ValueError(f"trainer.strategy {strategy} is not supported; take ddp, or {_FSDP2} to shard the model")
    if mode == "int8" and strategy.startswith("fsdp"):
        raise ValueError(
            "tuning.mode int8 cannot be sharded: the scales of LLM.int8 stay behind;"
            f" take tuning.mode qlora with {_FSDP2}"
        )
    if optimizer != "adamw" and strategy.startswith("fsdp"):
        raise ValueError(
            f"optimization.optimizer {optimizer} cannot update shards; set it to adamw, whose memory the ranks divide,"
            " or take trainer.strategy ddp"
        )
    if optimizer == "paged_adamw_8bit" and accelerator != "cuda":
        raise ValueError(
            f"optimization.optimizer {optimizer} pages out of a GPU's memory, the run is on {accelerator};"
            f" set it to {'adamw_8bit' if accelerator == 'cpu' else 'adamw'}"
        )
    if accelerator not in ("cpu", "cuda"):
        for key, value, instead in (("tuning.mode", mode, "lora"), ("optimization.optimizer", optimizer, "adamw")):
            if value in ("qlora", "int8", "adamw_8bit"):
                raise ValueError(f"{key} {value} needs bitsandbytes, which has no {accelerator}; set it to {instead}")


def refuse_flat(strategy: str, dtype: str, *, dora: bool = False, form: str = "codes", input_map: bool = False) -> None:
    """Nothing where FSDP1 can flatten the weights, or the strategy is another.

    Args:
        strategy: one of ``STRATEGIES``.
        dtype: ``llm.dtype``.
        dora: ``tuning.dora``.
        form: ``inputs.form``.
        input_map: ``inputs.map``.

    Raises:
        ValueError: it cannot.
    """
    if strategy != "fsdp1":
        return
    if dora:
        raise ValueError(
            "tuning.dora reads the weights of adapters from outside them, where FSDP1 has only a share;"
            f" set it to false, or take {_FSDP2}"
        )
    outside = {"inputs.form vocabulary": form == "vocabulary", "inputs.map": input_map}
    for key, learns in outside.items():
        if learns and dtype != "float32":
            raise ValueError(
                f"{key} learns in float32 beside words in {dtype}, which FSDP1 would flatten into one tensor;"
                f" set llm.dtype to float32, or take {_FSDP2}"
            )


def refuse_bfloat16(keys: dict[str, str], gpu: str, capability: tuple[int, int]) -> None:
    """Nothing where the GPU computes bfloat16 (compute capability 8.0, an A100) or none of the keys asks for it.

    PyTorch emulates it on older ones, far slower than float16.

    Raises:
        ValueError: one does.
    """
    for key, value in keys.items():
        if capability < (8, 0) and value.startswith(("bf16", "bfloat16")):
            instead = (
                "float16 (configs/llm/fp16.yaml)" if value == "bfloat16" else "16-mixed (configs/hardware/v100.yaml)"
            )
            major, minor = capability
            raise ValueError(
                f"{key} {value}: {gpu} (compute capability {major}.{minor}) has no bfloat16 arithmetic;"
                f" set it to {instead}"
            )
