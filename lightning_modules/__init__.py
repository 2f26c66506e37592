"""What is trained, one file a stage."""

from lightning_modules.llm_recognizer import LitLLMRecognizer
from lightning_modules.nearest_neighbour import LitNearestNeighbour
from lightning_modules.optimization import Optimization
from lightning_modules.sharding import FSDP1, FSDP2
from lightning_modules.skeleton_recognizer import LitSkeletonRecognizer
from lightning_modules.vqvae import LitVQVAE

__all__ = [
    "FSDP1",
    "FSDP2",
    "LitLLMRecognizer",
    "LitNearestNeighbour",
    "LitSkeletonRecognizer",
    "LitVQVAE",
    "Optimization",
]
