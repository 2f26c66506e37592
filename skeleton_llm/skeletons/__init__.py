"""Skeleton clips: layouts, readers, protocols, the prepared dataset on disk, transforms, synthetic motion."""

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LAYOUTS, Layout, find_layout
from skeleton_llm.skeletons.protocols import PROTOCOLS, Protocol, carve_validation, check_published, find_protocol
from skeleton_llm.skeletons.store import PreparedDataset, write_dataset
from skeleton_llm.skeletons.transforms import Augmentation, Preprocess

__all__ = [
    "LAYOUTS",
    "PROTOCOLS",
    "Augmentation",
    "Clip",
    "Layout",
    "PreparedDataset",
    "Preprocess",
    "Protocol",
    "carve_validation",
    "check_published",
    "find_layout",
    "find_protocol",
    "write_dataset",
]
