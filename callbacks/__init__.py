"""What is watched and saved."""

from callbacks.answers import AnswerReport
from callbacks.atomic_io import AtomicCheckpointIO
from callbacks.calibration import Calibration
from callbacks.checkpoints import Checkpoints
from callbacks.code_meaning import CodeMeaning
from callbacks.codebook_map import CodebookMap
from callbacks.codebook_usage import CodebookUsageMonitor
from callbacks.codebook_words import CodebookWords
from callbacks.collapse import CollapseAlarm
from callbacks.exact_resume import StepSeed
from callbacks.export import Export
from callbacks.last_step import LastStep
from callbacks.preemption import Preemption
from callbacks.progress import Progress
from callbacks.reconstructions import Reconstructions
from callbacks.score_files import ScoreFiles
from callbacks.token_sheets import TokenSheets
from callbacks.watchdog import Watchdog

__all__ = [
    "AnswerReport",
    "AtomicCheckpointIO",
    "Calibration",
    "Checkpoints",
    "CodeMeaning",
    "CodebookMap",
    "CodebookUsageMonitor",
    "CodebookWords",
    "CollapseAlarm",
    "Export",
    "LastStep",
    "Preemption",
    "Progress",
    "Reconstructions",
    "ScoreFiles",
    "StepSeed",
    "TokenSheets",
    "Watchdog",
]
