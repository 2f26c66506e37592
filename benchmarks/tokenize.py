"""``skeleton-llm tokenize``'s loop (read, preprocess, encode, write) against the bare encoder and search.

The bare encoder gets the same batches, preprocessed and in memory. OMP_NUM_THREADS=1 python -m benchmarks.tokenize
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.alternate import ratios, show
from benchmarks.ntu_like import write_ntu_like
from skeleton_llm import ActionTokenizer
from skeleton_llm.cli.tokenize import identify, sentences, write
from skeleton_llm.networks import VQVAE, VQVAEConfig
from skeleton_llm.skeletons import PreparedDataset, Preprocess
from skeleton_llm.skeletons.batches import read_batch

_BATCH = 256
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def compare(data: PreparedDataset, preprocess: Preprocess, config: VQVAEConfig, dim: int, rounds: int) -> None:
    """One table."""
    torch.manual_seed(0)
    vqvae = VQVAE(config, layout="ntu25", num_persons=2, dim=dim)
    tokenizer = ActionTokenizer(vqvae, preprocess, {}).to(_DEVICE)
    out, identity = data.folder.parent / "out.jsonl", identify(tokenizer, data)
    starts = range(0, len(data), _BATCH)
    batches = [read_batch(data, range(n, min(n + _BATCH, len(data))), preprocess, 2) for n in starts]
    batches = [tuple(None if x is None else x.to(_DEVICE) for x in batch) for batch in batches]

    def bare() -> list[list[list[int]]]:
        return [tokenizer.sentences(*batch)[0].tolist() for batch in batches]

    def one_by_one() -> list[list[list[int]]]:
        clips = [[data.clip(row) for row in range(n, min(n + _BATCH, len(data)))] for n in starts]
        return [tokenizer.sentences(*tokenizer.batch(part))[0].tolist() for part in clips]

    functions = {
        "encoder and search alone, batches in memory": bare,
        "ours: read, preprocess, encode, write": lambda: write(out, identity, data, sentences(tokenizer, data, _BATCH)),
        "clip by clip into ActionTokenizer.batch, no writing": one_by_one,
    }
    what = f"{preprocess.length}, width {config.width}, depth {config.depth}, dim {dim}"
    show(f"{len(data)} clips on {_DEVICE}: {what} (ratio to the encoder alone)", ratios(functions, rounds))


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
