"""How much of the language model learns (LLM-AR Eq. 13; Hu et al. 2022)."""

from dataclasses import dataclass, field
from typing import Literal

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel


@dataclass
class Tuning:
    """Tuning mode; the defaults are LLM-AR's.

    Args:
        mode: ``lora``, ``full`` (every weight, the paper's ablation) or ``frozen``.
        r: rank of the adapters.
        alpha: their scale is alpha / r.
        dropout: on the adapters' input.
        targets: the linear layers that get an adapter, by the end of their names; ``all-linear`` for every one.
    """

    mode: Literal["lora", "full", "frozen"] = "lora"
    r: int = 64
    alpha: int = 16
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """``model`` with the right weights trainable, wrapped by PEFT for LoRA; adapters are float32.

        Raises:
            ValueError: no layer has a target's name, or full tuning of a quantised model.
        """
        if self.mode == "frozen":
            return model
        if self.mode == "full":
            if getattr(model, "is_quantized", False):
                raise ValueError("tuning.mode full cannot train quantised weights; set llm.quantization to none")
            return model.float().requires_grad_()
        names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if not list(module.children())}
        missing = [target for target in self.targets if target != "all-linear" and target not in names]
        if missing:
            raise ValueError(
                f"tuning.targets {missing} name no layer of {type(model).__name__};"
                f" expected some of {', '.join(sorted(n for n in names if n))}"
            )
        targets = "all-linear" if "all-linear" in self.targets else self.targets
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            bias="none",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)
