"""Networks: features, temporal convolutions, the quantizer, the VQ-VAE, the frozen tokenizer, plain classifiers."""

from skeleton_llm.networks.action_tokenizer import ActionTokenizer
from skeleton_llm.networks.classifier import TemporalClassifier
from skeleton_llm.networks.features import SkeletonFeatures, hold_last
from skeleton_llm.networks.quantizer import Quantizer
from skeleton_llm.networks.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "VQVAE",
    "ActionTokenizer",
    "Quantizer",
    "SkeletonFeatures",
    "TemporalClassifier",
    "VQVAEConfig",
    "hold_last",
]
