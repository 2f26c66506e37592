"""``skeleton-llm tokenize``'s loop (read, preprocess, encode, write) against the bare encoder and search.

The bare encoder gets the same batches, preprocessed and in memory. OMP_NUM_THREADS=1 python -m benchmarks.tokenize
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.ntu_like import write_ntu_like
from skeleton_llm.networks import VQVAEConfig
from skeleton_llm.skeletons import PreparedDataset, Preprocess

_BATCH = 256
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Print the ratios at the shipped and at the paper's sizes."""
    shipped, paper = VQVAEConfig(width=128, depth=2, tokens_per_step=4), VQVAEConfig()
    with tempfile.TemporaryDirectory() as folder:
        write_ntu_like(Path(folder) / "d")
        data = PreparedDataset.open(Path(folder) / "d")
        compare(data, Preprocess(frames=64), shipped, dim=128, rounds=7)
        compare(data, Preprocess(length="whole"), shipped, dim=128, rounds=7)
        compare(data, Preprocess(frames=64), paper, dim=512, rounds=3)


if __name__ == "__main__":
    main()
