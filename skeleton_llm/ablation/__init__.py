"""A table of cells over seeds: planned as runs, worked through, reported."""

from skeleton_llm.ablation.matrix import Cell, Matrix, read_matrix
from skeleton_llm.ablation.runs import Planned, Run, Setting, plan, unique_runs
from skeleton_llm.ablation.slots import Crew, Slot, divide

__all__ = [
    "Cell",
    "Crew",
    "Matrix",
    "Planned",
    "Run",
    "Setting",
    "Slot",
    "divide",
    "plan",
    "read_matrix",
    "unique_runs",
]
