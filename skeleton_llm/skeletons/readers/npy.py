"""A single clip as a NumPy array: [T, V, 3] or [T, M, V, 3] in metres, +y up."""

from pathlib import Path

import numpy as np

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LAYOUTS, find_layout


def read_npy(path: Path | str, layout: str | None = None) -> Clip:
    """Read one clip; without ``layout`` the number of joints decides (25 or 20).

    Raises:
        ValueError: not a NumPy file of plain numbers, or a shape that fits no layout.
    """
    path = Path(path)
    try:
        joints = np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a whole NumPy file of numbers ({error}); save it with numpy.save") from error
    if joints.ndim == 3:
        joints = joints[:, None]
    if joints.ndim != 4 or joints.shape[-1] != 3:
        raise ValueError(f"{path}: expected an array [T, V, 3] or [T, M, V, 3], found {joints.shape}")
    if layout is None:
        fitting = [name for name, known in LAYOUTS.items() if known.num_joints == joints.shape[2]]
        if not fitting:
            raise ValueError(f"{path}: {joints.shape[2]} joints fit no known layout ({', '.join(LAYOUTS)})")
        layout = fitting[0]
    find_layout(layout)
    return Clip(joints, layout, source=str(path))
