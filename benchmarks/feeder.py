"""The batched feeder against a per-sample feeder of the public kind (CTR-GCN's: crop, resize, rotate, collate).

python -m benchmarks.feeder
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.alternate import ratios, show
from benchmarks.ntu_like import write_ntu_like
from datamodules import SkeletonDataModule
from skeleton_llm.skeletons import Augmentation, Preprocess

_FRAMES, _PADDED = 64, 300


def padded(data: SkeletonDataModule, rows: np.ndarray) -> np.ndarray:
    """What such a feeder holds in memory: [N, 3, 300, V, M] zero-padded."""
    clips = np.zeros((len(rows), 3, _PADDED, 25, 2), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        joints = data.data.clip(row).joints[:_PADDED]
        clips[place, :, : len(joints)] = joints.transpose(3, 0, 2, 1)
    return clips


def sample(clips: np.ndarray, index: int, random: np.random.Generator) -> torch.Tensor:
    """One clip: random crop of 50 to 100 %, linear resize to 64 frames, random rotation of each axis by 0.3 rad."""
    clip = np.array(clips[index])
    length = int(np.sum(clip.sum(0).sum(-1).sum(-1) != 0))  # the valid frames are counted in each sample
    kept = max(int(length * random.uniform(0.5, 1)), min(length, 64))
    start = int(random.integers(0, length - kept + 1))
    part = torch.from_numpy(clip[:, start : start + kept])
    channels, _, joints, persons = part.shape
    flat = part.permute(0, 2, 3, 1).reshape(channels * joints * persons, kept)
    resized = F.interpolate(flat[None, None], size=(flat.shape[0], _FRAMES), mode="bilinear", align_corners=False)[0, 0]
    part = resized.reshape(channels, joints, persons, _FRAMES).permute(0, 3, 1, 2).contiguous()
    angle = torch.from_numpy(random.uniform(-0.3, 0.3, 3).astype(np.float32)).repeat(_FRAMES, 1)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(_FRAMES), torch.ones(_FRAMES)
    x = torch.stack([one, zero, zero, zero, cos[:, 0], sin[:, 0], zero, -sin[:, 0], cos[:, 0]], 1).view(-1, 3, 3)
    y = torch.stack([cos[:, 1], zero, -sin[:, 1], zero, one, zero, sin[:, 1], zero, cos[:, 1]], 1).view(-1, 3, 3)
    z = torch.stack([cos[:, 2], sin[:, 2], zero, -sin[:, 2], cos[:, 2], zero, zero, zero, one], 1).view(-1, 3, 3)
    moved = torch.matmul(z @ y @ x, part.permute(1, 0, 2, 3).reshape(_FRAMES, 3, -1))
    return moved.view(_FRAMES, 3, joints, persons).permute(1, 0, 2, 3).contiguous()


def main() -> None:
    """Print the ratio for 256 clips, one thread each."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_ntu_like(Path(folder) / "d")
        augmentation = Augmentation(rotation=0.3, tilt=0.3, scale=0.0, crop=0.5)
        data = SkeletonDataModule(str(Path(folder) / "d"), "synthetic_xsub", Preprocess(_FRAMES, "yaw"), augmentation)
        ours = data.batches("train", augmentation)
        rows = data.rows["train"][:256]
        clips = padded(data, rows)
        random, turn = np.random.default_rng(0), iter(range(10**6))

        def batched() -> torch.Tensor:
            pass_number = next(turn)
            return ours.__getitems__([(pass_number, row) for row in range(256)])["joints"]

        def one_by_one() -> torch.Tensor:
            return torch.stack([sample(clips, i, random) for i in range(256)])

        assert batched().shape == (256, _FRAMES, 2, 25, 3)
        assert one_by_one().shape == (256, 3, _FRAMES, 25, 2)
        found = ratios({"ours: whole batches, memory-mapped": batched, "per sample, padded in memory": one_by_one})
        show("time as a ratio to ours: crop, resize to 64, rotate 256 clips of two persons, one thread", found)


if __name__ == "__main__":
    main()
