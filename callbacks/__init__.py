"""What is watched and saved."""

from callbacks.atomic_io import AtomicCheckpointIO
from callbacks.codebook_usage import CodebookUsageMonitor
from callbacks.confusion import ConfusionMatrix
from callbacks.exact_resume import StepSeed
from callbacks.export import Export
from callbacks.preemption import Preemption
from callbacks.reconstructions import Reconstructions

__all__ = [
    "AtomicCheckpointIO",
    "CodebookUsageMonitor",
    "ConfusionMatrix",
    "Export",
    "Preemption",
    "Reconstructions",
    "StepSeed",
]
