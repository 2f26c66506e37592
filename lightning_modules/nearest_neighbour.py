"""The nearest training clip names the action: the floor under everything that learns."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_modules.skeleton_recognizer import LitSkeletonRecognizer
from skeleton_llm.networks import NearestNeighbour, RecognizerConfig, Seen, Stream


@dataclass
class _Lookup(RecognizerConfig):
    """Nothing to choose."""

    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        return NearestNeighbour(num_classes)


class LitNearestNeighbour(LitSkeletonRecognizer):
    """Remember the training clips, without augmentation, instead of training; one step is a whole run.

    Args:
        layout: skeleton layout, from the data.
        num_persons: persons a clip has channels for, from the data.
        class_names: the actions, from the data.
        source: what clips are compared by: ``skeleton`` (standardised channels), the tokenizer's ``latents``, or its
            ``sentences`` (as code vectors).
        streams: of skeletons, any of ``joint``, ``bone``, ``motion``, ``bone_motion``; null for joints and motion.
        tokenizer: folder of the action tokenizer; only the skeleton source does without.
    """

    network: NearestNeighbour

    def __init__(
        self,
        layout: str,
        num_persons: int,
        class_names: list[str],
        source: Literal["skeleton", "latents", "sentences"] = "skeleton",
        streams: list[Stream] | None = None,
        tokenizer: str | None = None,
    ) -> None:
        """Know nothing."""
        super().__init__(layout, num_persons, class_names, _Lookup(), source, streams, tokenizer)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.trainer.world_size > 1:
            raise ValueError("nearest neighbours leave nothing to train on several devices; set trainer.devices to 1")
        if self.trainer.datamodule.preprocess.length != "resize":
            raise ValueError("nearest neighbours compare clips of one length; set data.preprocess.length to resize")

    def _agree(self) -> None:
        """Before the first evaluation, look at the training clips."""
        if len(self.network.labels) == 0:
            self._remember()

    @torch.no_grad()
    def _remember(self) -> None:
        data: Any = self.trainer.datamodule
        clips, size = data.batches("train"), 256
        known, labels = [], []
        for first in range(0, len(clips), size):
            keys = [(-1, index) for index in range(first, min(first + size, len(clips)))]
            batch = {name: tensor.to(self.device) for name, tensor in clips.__getitems__(keys).items()}
            known.append(self._sequence(batch["joints"], batch["persons"], None)[0])
            labels.append(batch["labels"])
        self.network.remember(torch.cat(known), torch.cat(labels))

    def configure_optimizers(self) -> None:
        warnings.filterwarnings("ignore", ".*this fit will run with no optimizer")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return torch.zeros((), requires_grad=True)
