"""A prepared dataset with NTU's length of clip, from synthetic motion."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from skeleton_llm.skeletons import write_dataset
from skeleton_llm.skeletons.synthetic import CLASS_NAMES, synthetic_clips


def write_ntu_like(folder: Path, subjects: int = 6) -> None:
    """Clips of about 90 frames, 25 joints and two persons."""
    write_dataset(
        folder,
        (replace(clip, joints=np.repeat(clip.joints, 2, axis=0)) for clip in synthetic_clips(subjects=subjects)),
        name="synthetic",
        layout="ntu25",
        class_names=CLASS_NAMES,
        num_persons=2,
        source="synthetic",
    )
