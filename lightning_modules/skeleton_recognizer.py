"""Recognisers without a language model, on skeletons, latents or action sentences: what each step loses, and peers."""

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
from skeleton_llm.networks import (
    ActionTokenizer,
    ConvolutionConfig,
    JointStreams,
    RecognizerConfig,
    Seen,
    SkeletonFeatures,
    Stream,
    hold_last,
)
from skeleton_llm.skeletons import find_layout

_STEP = 4  # clips of their own length are whole numbers of so many frames, which the networks make one step
_FEW = 5  # of top-5


class LitSkeletonRecognizer(L.LightningModule):
    """Train a network to tell the classes apart.

    Args:
        layout: skeleton layout, from the data.
        num_persons: persons a clip has channels for, from the data.
        class_names: the actions, from the data.
        network: which network, and its sizes; a temporal convolution by default.
        source: what it sees: ``skeleton``, the tokenizer's ``latents``, or its ``sentences`` (as code vectors).
        streams: of skeletons, any of ``joint``, ``bone``, ``motion``, ``bone_motion``; null for joints and motion.
        tokenizer: folder of the action tokenizer; only the skeleton source does without.
        label_smoothing: share of the target that all classes divide among them.
        optimization: optimiser and schedule.
    """

    def __init__(
        self,
        layout: str,
        num_persons: int,
        class_names: list[str],
        network: RecognizerConfig | None = None,
        source: Literal["skeleton", "latents", "sentences"] = "skeleton",
        streams: list[Stream] | None = None,
        tokenizer: str | None = None,
        label_smoothing: float = 0.1,
        optimization: Optimization | None = None,
    ) -> None:
        """Build the network for its source."""
        super().__init__()
        self.optimization, self.label_smoothing = optimization or Optimization(), label_smoothing
        self.config, self.source = network or ConvolutionConfig(), source
        self.tokenizer: ActionTokenizer | None = None
        if source == "skeleton":
            seen = self._read_skeletons(layout, num_persons, ["joint", "motion"] if streams is None else streams)
        elif streams is not None:
            raise ValueError(f"model.source {source} is of what the tokenizer reads; set model.streams to null")
        elif self.config.reads_joints:
            raise ValueError(f"a network on the skeleton's graph cannot read {source}; set model.source to skeleton")
        elif tokenizer is None:
            raise ValueError(f"model.source {source} reads a tokenizer's output; set model.tokenizer to its folder")
        else:
            self.tokenizer = ActionTokenizer.from_pretrained(tokenizer)
            per_step = self.tokenizer.vqvae.config.tokens_per_step
            self.group = per_step if self.config.joins_tokens else 1
            seen = Seen(layout, self.tokenizer.dim * self.group, per_step)
        self.network = self.config.build(seen, len(class_names))
        self.measures = nn.ModuleDict()
        for split in ("val", "test"):
            self.measures[f"{split}/top1"] = MulticlassAccuracy(len(class_names), average="micro")
            self.measures[f"{split}/mean_class_accuracy"] = MeanClassAccuracy(len(class_names))
            if len(class_names) > _FEW:  # else all are among the best
                self.measures[f"{split}/top5"] = MulticlassAccuracy(len(class_names), average="micro", top_k=_FEW)

    def _read_skeletons(self, layout: str, num_persons: int, streams: list[Stream]) -> Seen:
        """Coordinates of each joint, or all persons' channels, standardised."""
        if not streams or len({*streams}) < len(streams):
            raise ValueError(f"model.streams must name at least one stream, each once, got {streams}")
        if self.config.reads_joints:
            self.joint_streams = JointStreams(layout, streams)
            return Seen(layout, 3 * len(streams), None)
        self.features = SkeletonFeatures(layout, num_persons, streams=tuple(streams))
        return Seen(layout, self.features.num_inputs, None)

    def setup(self, stage: str) -> None:
        if self.trainer.datamodule.unseen:
            raise ValueError("a plain classifier cannot name a class that it never saw; leave out data.unseen")
        if self.tokenizer is not None:
            self.trainer.datamodule.preprocess = self.tokenizer.preprocess

    def on_train_start(self) -> None:
        self.optimization.rule(self.trainer)

    def on_fit_start(self) -> None:
        if self.source == "skeleton" and not self.config.reads_joints and not self.features.fitted:
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
        if not self.config.reads_joints:
            return self.network(*self._sequence(joints, persons, lengths))
        joints, mask = self._held(joints, lengths)
        return self.network(self.joint_streams(joints), persons, mask)

    def _held(self, joints: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Whole steps of each clip, and which of its frames count; None for all."""
        return (joints, None) if lengths is None else hold_last(joints, lengths, _STEP)

    def _sequence(self, joints: Tensor, persons: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """All persons' channels, latents or code vectors [B, T, F], and which of them count; None for all."""
        if self.tokenizer is None:
            joints, mask = self._held(joints, lengths)
            return self.features.seen(self.features(joints, persons)), mask
        ragged = lengths is not None or self.tokenizer.vqvae.apart
        read = self.tokenizer.latents if self.source == "latents" else self.tokenizer.embed
        seen, there = read(joints, persons, lengths)
        if self.tokenizer.vqvae.apart:  # one person's sentence right after the other's, without the batch's padding
            order = there.argsort(dim=1, descending=True, stable=True)
            seen, there = seen.take_along_dim(order[..., None], 1), there.take_along_dim(order, 1)
        steps = seen.unflatten(1, (-1, self.group)).flatten(2) * self.tokenizer.dim**0.5  # channels of deviation 1
        return steps, there[:, :: self.group] if ragged else None

    def _logits(self, batch: dict[str, Tensor], joints: Tensor) -> Tensor:
        return self(joints, batch["persons"], batch.get("lengths")).float()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self._logits(batch, batch["joints"])
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=self.label_smoothing)
        self.log("train/loss", loss)
        return loss

    def on_validation_start(self) -> None:
        self._agree()

    def on_test_start(self) -> None:
        self._agree()

    def _agree(self) -> None:
        """Take batch norm's averages from rank 0, as checkpoints do; DDP sends them only when a step begins."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        data: Any = self.trainer.datamodule
        views = data.preprocess.views(batch["joints"], find_layout(data.layout))
        logits = torch.stack([self._logits(batch, view).log_softmax(-1) for view in views]).mean(0)
        for name, metric in self.measures.items():
            if name.startswith(split):
                if len(logits):  # a rank without clips only takes part in the metrics' sums
                    metric.update(logits, batch["labels"])
                self.log(name, metric, prog_bar=name.endswith("top1"))
        return {"scores": logits, "labels": batch["labels"], "index": batch["index"]}

    @rank_zero_only
    def export(self, folder: Path) -> None:
        """Keep the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "weights.safetensors")
