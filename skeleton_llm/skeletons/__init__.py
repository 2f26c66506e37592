"""Skeleton clips: layouts, readers, protocols, the prepared dataset on disk, transforms, synthetic motion."""

from typing import TYPE_CHECKING, Any

from skeleton_llm.skeletons.clip import Clip
from skeleton_llm.skeletons.layouts import LAYOUTS, Layout, find_layout, register_layout
from skeleton_llm.skeletons.protocols import (
    PROTOCOLS,
    Protocol,
    carve_validation,
    check_published,
    find_protocol,
    unseen_classes,
)
from skeleton_llm.skeletons.store import PreparedDataset
from skeleton_llm.skeletons.writer import DatasetWriter, write_dataset

if TYPE_CHECKING:
    from skeleton_llm.skeletons.transforms import Augmentation, Preprocess

__all__ = [
    "LAYOUTS",
    "PROTOCOLS",
    "Augmentation",
    "Clip",
    "DatasetWriter",
    "Layout",
    "PreparedDataset",
    "Preprocess",
    "Protocol",
    "carve_validation",
    "check_published",
    "find_layout",
    "find_protocol",
    "register_layout",
    "unseen_classes",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: readers start without it."""
    if name in ("Augmentation", "Preprocess"):
        from skeleton_llm.skeletons import transforms  # noqa: PLC0415

        return getattr(transforms, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
