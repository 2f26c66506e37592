"""Whole batches of a prepared dataset as network input, without augmentation; on plain tensors.

B clips, T frames, M persons, V joints.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from skeleton_llm.skeletons.layouts import find_layout
from skeleton_llm.skeletons.store import PreparedDataset
from skeleton_llm.skeletons.transforms import Preprocess, interpolate, place


def read_batch(
    data: PreparedDataset, rows: range, preprocess: Preprocess, num_persons: int
) -> tuple[Float[Tensor, "B T M V 3"], Bool[Tensor, "B M"], Int[Tensor, " B"] | None]:
    """The clips of consecutive ``rows`` as ``preprocess`` has them, who is there, and the frames that count.

    Persons beyond ``num_persons`` are dropped, missing ones stay absent; the lengths are None where all frames count.
    """
    layout = find_layout(data.info["layout"])
    first, last = rows[0], rows[-1]
    offset, length = (data.table[name][first : last + 1] for name in ("offset", "length"))
    begin = int(offset[0])
    # clips lie end to end, so a batch is one piece of the file, and only one batch is ever in memory
    frames = np.array(data.frames[begin : int(offset[-1] + length[-1])])
    clips = [frames[at : at + size] for at, size in zip((offset - begin).tolist(), length.tolist(), strict=True)]
    shift, rotation = zip(*(preprocess.canonical(clip, layout) for clip in clips), strict=True)
    joints, lengths = torch.from_numpy(frames), torch.from_numpy(length)
    position, counted = preprocess.positions(lengths)
    seen = torch.from_numpy(frames.reshape(*frames.shape[:2], -1).any(-1))  # a fifth of the time torch takes
    joints, present = interpolate(joints, seen, torch.from_numpy(offset - begin), lengths, position)
    joints = place(joints, present, torch.from_numpy(np.stack(shift)), torch.from_numpy(np.stack(rotation)))
    missing = num_persons - joints.shape[2]
    persons = present.any(1)
    if missing:  # a negative padding cuts
        joints, persons = F.pad(joints, (0, 0, 0, 0, 0, missing)), F.pad(persons, (0, missing))
    return joints, persons, counted
