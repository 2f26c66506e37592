"""Stage 2: a language model learns to name the actions that sentences tell of (LLM-AR section 3.3, Eq. 13)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.optimization import Optimization
from skeleton_llm.language import LanguageModel, LLMRecognizer, Prompt, SkeletonReader, Tuning
from skeleton_llm.metrics import MeanClassAccuracy, NameAnswers
from skeleton_llm.networks import ActionTokenizer
from skeleton_llm.recognizer import Recognizer, score_views


class LitLLMRecognizer(L.LightningModule):
    """Tune a language model on action sentences; checkpoints hold what learns, never the base model.

    Args:
        tokenizer: folder of stage 1's action tokenizer, which stays frozen.
        class_names: the actions, from the data.
        layout: skeleton layout of the data; must be the tokenizer's.
        llm: the language model; must have the width that the tokenizer was made for.
        tuning: LoRA, full or frozen.
        prompt: the instruction.
        input_map: a learned linear map between code vectors and the model (off in the paper; small models need it).
        optimization: optimiser and schedule.
        generate: also answer freely (greedily) in validation and test, and count names that do not exist.
    """

    strict_loading = False  # checkpoints hold only what learns; on_load_checkpoint checks that they hold all of it

    def __init__(
        self,
        tokenizer: str,
        class_names: list[str],
        layout: str,
        llm: LanguageModel | None = None,
        tuning: Tuning | None = None,
        prompt: Prompt | None = None,
        optimization: Optimization | None = None,
        *,
        input_map: bool = False,
        generate: bool = True,
    ) -> None:
        """Check that tokenizer, data and language model fit, before the model is loaded."""
        super().__init__()
        self.llm, self.tuning, self.prompt = llm or LanguageModel(), tuning or Tuning(), prompt or Prompt()
        self.optimization = optimization or Optimization(
            lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01, warmup_steps=100
        )
        self.input_map, self.generate, self.class_names = input_map, generate, class_names
        self.tokenizer = ActionTokenizer.from_pretrained(tokenizer)
        if self.tokenizer.layout != layout:
            raise ValueError(
                f"{tokenizer}: the tokenizer reads the layout {self.tokenizer.layout}, the data have {layout};"
                " train stage 1 on such data"
            )
        if self.tokenizer.dim != self.llm.width:
            raise ValueError(
                f"{tokenizer}: its codes are {self.tokenizer.dim} wide, the words of {self.llm.name} {self.llm.width};"
                " run stage 1 with the same LLM="
            )
        if self.tuning.mode == "frozen" and not input_map:
            raise ValueError(
                "tuning.mode frozen without input_map leaves nothing to learn; set model.input_map to true"
            )
        made_for = self.tokenizer.info.get("llm", {}).get("fingerprint")
        if made_for != self._llm_fingerprint:
            rank_zero_warn(
                f"{tokenizer} was aligned with the words of another language model of this width than {self.llm.name}"
            )
        self.network: LLMRecognizer | None = None
        few = min(5, len(class_names))
        self.measures = nn.ModuleDict()
        for split in ("val", "test"):
            self.measures[f"{split}/top1"] = MulticlassAccuracy(len(class_names), average="micro")
            self.measures[f"{split}/mean_class_accuracy"] = MeanClassAccuracy(len(class_names))
            self.measures[f"{split}/top5"] = MulticlassAccuracy(len(class_names), average="micro", top_k=few)
            self.measures[f"{split}/top1_length_normalised"] = MulticlassAccuracy(len(class_names), average="micro")
        self.free = nn.ModuleDict({split: NameAnswers(class_names) for split in ("val", "test")})

    def configure_model(self) -> None:
        if self.network is not None:
            return
        self.network = LLMRecognizer(
            self.tuning.apply(self.llm.load()),
            self.llm.tokenizer(),
            self.class_names,
            self.prompt,
            input_map=self.input_map,
        )

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule
        data.preprocess = self.tokenizer.preprocess

    def configure_optimizers(self) -> Any:
        return self.optimization.build(self.parameters(), self.trainer.max_steps)

    def on_train_start(self) -> None:
        self._network.train()  # from_pretrained leaves eval mode, in which gradient checkpointing never recomputes

    @property
    def _network(self) -> LLMRecognizer:
        assert self.network is not None, "configure_model builds it"
        return self.network

    def _read(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        reader: SkeletonReader = self.tokenizer
        return reader.embed(batch["joints"], batch["persons"], batch.get("lengths"))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._network.loss(*self._read(batch), batch["labels"])
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        answers = score_views(self.tokenizer, self._network, batch["joints"], batch["persons"], batch.get("lengths"))
        data: Any = self.trainer.datamodule
        answers = answers.among(data.candidates(split))
        for name, score in (
            ("top1", answers.log_likelihoods),
            ("mean_class_accuracy", answers.log_likelihoods),
            ("top5", answers.log_likelihoods),
            ("top1_length_normalised", answers.normalised),
        ):
            metric = self.measures[f"{split}/{name}"]
            if len(score):  # a rank without clips only takes part in the metrics' sums
                metric.update(score, batch["labels"])
            self.log(f"{split}/{name}", metric, prog_bar=name == "top1")
        if self.generate:
            self.free[split].update(self._network.generate(*self._read(batch)), batch["labels"])
        return {"predictions": answers.log_likelihoods.argmax(-1), "labels": batch["labels"]}

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _report(self, split: str) -> None:
        if self.generate:
            free = self.free[split]
            self.log_dict({f"{split}/greedy_{name}": value for name, value in free.compute().items()})
            free.reset()

    @cached_property
    def _llm_fingerprint(self) -> str:
        return self.llm.fingerprint()

    def _identity(self) -> dict[str, str]:
        return {"llm": self._llm_fingerprint, "tokenizer": self.tokenizer.fingerprint()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["trained_on"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.configure_model()
        for part, found in self._identity().items():
            if checkpoint.get("trained_on", {}).get(part) != found:
                raise ValueError(
                    f"the checkpoint was written with another {part}; give that one back or start a new RUN="
                )
        wanted = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        missing = wanted - set(checkpoint["state_dict"])
        if missing:
            raise ValueError(
                f"the checkpoint lacks {sorted(missing)[0]} and {len(missing) - 1} more; is it from another tuning?"
            )

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the recogniser."""
        Recognizer(self.tokenizer, self._network).save_pretrained(folder, self.llm, self.tuning, self.prompt)
