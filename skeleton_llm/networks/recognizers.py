"""The networks that recognise without a language model, each with the sizes that a config may choose."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import nn

from skeleton_llm.networks.classifier import TemporalClassifier
from skeleton_llm.networks.ctr_gcn import CTRGCN
from skeleton_llm.networks.st_gcn import STGCN
from skeleton_llm.networks.transformer import TransformerClassifier


class Seen(NamedTuple):
    """What a network reads: ``channels`` an element of a sequence, or a joint; ``per_step`` tokens that share a time.

    ``per_step`` is None for frames of skeletons.
    """

    layout: str
    channels: int
    per_step: int | None


class RecognizerConfig(ABC):
    """Which network, and its sizes."""

    reads_joints: ClassVar[bool] = False
    """Coordinates of each joint [B, T, M, V, C] and who is there, instead of a sequence of channels [B, T, F]."""
    joins_tokens: ClassVar[bool] = False
    """The tokens of one step are one element of the sequence."""

    @abstractmethod
    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        """The network that gives logits of ``num_classes``."""


@dataclass
class ConvolutionConfig(RecognizerConfig):
    """A temporal convolution.

    Args:
        width: channels.
        depth: residual blocks a resolution.
        dropout: share of the pooled features dropped in training.
    """

    joins_tokens: ClassVar[bool] = True
    width: int = 128
    depth: int = 2
    dropout: float = 0.5

    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        """Time is halved twice where it is frames; a tokenizer has merged them already."""
        return TemporalClassifier(
            seen.channels,
            num_classes,
            width=self.width,
            depth=self.depth,
            downsamples=2 if seen.per_step is None else 0,
            dropout=self.dropout,
        )


@dataclass
class TransformerConfig(RecognizerConfig):
    """A plain transformer encoder.

    Args:
        width: of its layers.
        depth: layers.
        heads: of the attention.
        dropout: in every layer.
    """

    width: int = 128
    depth: int = 4
    heads: int = 4
    dropout: float = 0.2

    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        """Every frame or token is an element of the sequence."""
        return TransformerClassifier(
            seen.channels,
            num_classes,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            dropout=self.dropout,
            per_step=seen.per_step or 1,
        )


@dataclass
class STGCNConfig(RecognizerConfig):
    """ST-GCN (Yan et al. 2018).

    Args:
        width: channels of the first blocks, 64 in the paper.
        kernel: frames of the convolutions along time, odd.
        dropout: in every block.
    """

    reads_joints: ClassVar[bool] = True
    width: int = 64
    kernel: int = 9
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a kernel without a middle."""
        if self.kernel % 2 == 0:
            raise ValueError(f"network.kernel must be odd, got {self.kernel}")

    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        """On the graph of the layout's bones."""
        return STGCN(
            seen.layout, seen.channels, num_classes, width=self.width, kernel=self.kernel, dropout=self.dropout
        )


@dataclass
class CTRGCNConfig(RecognizerConfig):
    """CTR-GCN (Chen et al. 2021).

    Args:
        width: channels of the first blocks, 64 in the paper; a multiple of 4.
        dropout: share of the pooled features dropped in training.
    """

    reads_joints: ClassVar[bool] = True
    width: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse channels that do not part into four."""
        if self.width < 4 or self.width % 4:
            raise ValueError(f"network.width must be a multiple of 4, got {self.width}")

    def build(self, seen: Seen, num_classes: int) -> nn.Module:
        """On the graph of the layout's bones."""
        return CTRGCN(seen.layout, seen.channels, num_classes, width=self.width, dropout=self.dropout)
