"""Networks: features, temporal convolutions, the quantizer, the VQ-VAE, the frozen tokenizer, plain recognisers."""

from skeleton_llm.networks.action_tokenizer import ActionTokenizer
from skeleton_llm.networks.classifier import TemporalClassifier
from skeleton_llm.networks.ctr_gcn import CTRGCN
from skeleton_llm.networks.features import SkeletonFeatures, Stream, hold_last
from skeleton_llm.networks.graph import JointStreams
from skeleton_llm.networks.nearest import NearestNeighbour
from skeleton_llm.networks.quantizer import Quantizer
from skeleton_llm.networks.recognizers import (
    ConvolutionConfig,
    CTRGCNConfig,
    RecognizerConfig,
    Seen,
    STGCNConfig,
    TransformerConfig,
)
from skeleton_llm.networks.st_gcn import STGCN
from skeleton_llm.networks.transformer import TransformerClassifier
from skeleton_llm.networks.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "CTRGCN",
    "STGCN",
    "VQVAE",
    "ActionTokenizer",
    "CTRGCNConfig",
    "ConvolutionConfig",
    "JointStreams",
    "NearestNeighbour",
    "Quantizer",
    "RecognizerConfig",
    "STGCNConfig",
    "Seen",
    "SkeletonFeatures",
    "Stream",
    "TemporalClassifier",
    "TransformerClassifier",
    "TransformerConfig",
    "VQVAEConfig",
    "hold_last",
]
