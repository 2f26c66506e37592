"""A plain classifier on skeletons, latents or action sentences: the measure of what each step of the pipeline loses."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.optimization import Optimization
from skeleton_llm.metrics import MeanClassAccuracy
from skeleton_llm.networks import ActionTokenizer, SkeletonFeatures, TemporalClassifier, hold_last
from skeleton_llm.skeletons import find_layout

_DOWNSAMPLES = 2  # of the classifier on skeletons


class LitSkeletonClassifier(L.LightningModule):
    """Train a temporal convolution to tell the classes apart.

    Args:
        layout: skeleton layout, from the data.
        num_persons: persons a clip has channels for, from the data.
        class_names: the actions, from the data.
        source: what it sees: ``skeleton``, the tokenizer's ``latents``, or its ``sentences`` (as code vectors).
        tokenizer: folder of the action tokenizer; only the skeleton source does without.
        width: channels of the convolutions.
        depth: residual blocks a resolution.
        dropout: of the pooled features.
        optimization: optimiser and schedule.
    """

    def __init__(
        self,
        layout: str,
        num_persons: int,
        class_names: list[str],
        source: Literal["skeleton", "latents", "sentences"] = "skeleton",
        tokenizer: str | None = None,
        width: int = 128,
        depth: int = 2,
        dropout: float = 0.5,
        optimization: Optimization | None = None,
    ) -> None:
        """Build the network for its source."""
        super().__init__()
        self.optimization, self.source = optimization or Optimization(), source
        self.tokenizer: ActionTokenizer | None = None
        if source == "skeleton":
            self.features = SkeletonFeatures(layout, num_persons)
            channels, downsamples = self.features.num_channels, _DOWNSAMPLES
        elif tokenizer is None:
            raise ValueError(f"model.source {source} reads a tokenizer's output; set model.tokenizer to its folder")
        else:
            self.tokenizer = ActionTokenizer.from_pretrained(tokenizer)
            self.group = self.tokenizer.vqvae.config.tokens_per_step
            channels, downsamples = self.tokenizer.dim * self.group, 0
        self.network = TemporalClassifier(
            channels, len(class_names), width=width, depth=depth, downsamples=downsamples, dropout=dropout
        )
        self.measures = nn.ModuleDict()
        for split in ("val", "test"):
            self.measures[f"{split}/top1"] = MulticlassAccuracy(len(class_names), average="micro")
            self.measures[f"{split}/mean_class_accuracy"] = MeanClassAccuracy(len(class_names))

    def setup(self, stage: str) -> None:
        if self.trainer.datamodule.unseen:
            raise ValueError("a plain classifier cannot name a class that it never saw; leave out data.unseen")
        if self.tokenizer is not None:
            self.trainer.datamodule.preprocess = self.tokenizer.preprocess

    def on_fit_start(self) -> None:
        if self.source == "skeleton" and not self.features.fitted:
            found = self.trainer.datamodule.training_sample(1024)
            sample = {name: tensor.to(self.device) for name, tensor in found.items()}
            mask = None
            if "lengths" in sample:
                mask = torch.arange(sample["joints"].shape[1], device=self.device) < sample["lengths"][:, None]
            self.features.fit(sample["joints"], sample["persons"], mask)

    def configure_optimizers(self) -> Any:
        return self.optimization.build(self.network.parameters(), self.trainer.max_steps)

    def forward(self, joints: Tensor, persons: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, C] of preprocessed clips [B, T, M, V, 3], of which ``lengths`` [B] frames count."""
        if self.tokenizer is None:
            mask = None
            if lengths is not None:
                joints, mask = hold_last(joints, lengths, 2**_DOWNSAMPLES)
            return self.network(self.features(joints, persons), mask)
        ragged = lengths is not None or self.tokenizer.vqvae.apart
        read = self.tokenizer.latents if self.source == "latents" else self.tokenizer.embed
        seen, there = read(joints, persons, lengths)
        if self.tokenizer.vqvae.apart:  # one person's sentence right after the other's, without the batch's padding
            order = there.argsort(dim=1, descending=True, stable=True)
            seen, there = seen.take_along_dim(order[..., None], 1), there.take_along_dim(order, 1)
        steps = seen.unflatten(1, (-1, self.group)).flatten(2) * self.tokenizer.dim**0.5  # channels of deviation 1
        return self.network(steps, there[:, :: self.group] if ragged else None)

    def _logits(self, batch: dict[str, Tensor], joints: Tensor) -> Tensor:
        return self(joints, batch["persons"], batch.get("lengths")).float()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self._logits(batch, batch["joints"]), batch["labels"], label_smoothing=0.1)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        data: Any = self.trainer.datamodule
        views = data.preprocess.views(batch["joints"], find_layout(data.layout))
        logits = torch.stack([self._logits(batch, view).log_softmax(-1) for view in views]).mean(0)
        for name in ("top1", "mean_class_accuracy"):
            metric = self.measures[f"{split}/{name}"]
            if len(logits):  # a rank without clips only takes part in the metrics' sums
                metric.update(logits, batch["labels"])
            self.log(f"{split}/{name}", metric, prog_bar=name == "top1")
        return {"scores": logits, "labels": batch["labels"], "index": batch["index"]}

    @rank_zero_only
    def export(self, folder: Path) -> None:
        """Keep the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "classifier.safetensors")
