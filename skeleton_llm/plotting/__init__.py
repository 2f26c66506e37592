"""Figures and moving pictures."""

from skeleton_llm.plotting.ablations import Difference, Line, plot_curves, plot_differences
from skeleton_llm.plotting.codebook import (
    disk_positions,
    plot_class_heat_map,
    plot_poincare_disk,
    plot_rank_frequency,
    plot_usage,
)
from skeleton_llm.plotting.confusion import plot_confusion
from skeleton_llm.plotting.reliability import plot_reliability
from skeleton_llm.plotting.skeleton import blank, draw_frames, draw_gif, draw_sheet, join_gif, save_gif, save_sheet
from skeleton_llm.plotting.token_sheet import Pose, draw_poses

__all__ = [
    "Difference",
    "Line",
    "Pose",
    "blank",
    "disk_positions",
    "draw_frames",
    "draw_gif",
    "draw_poses",
    "draw_sheet",
    "join_gif",
    "plot_class_heat_map",
    "plot_confusion",
    "plot_curves",
    "plot_differences",
    "plot_poincare_disk",
    "plot_rank_frequency",
    "plot_reliability",
    "plot_usage",
    "save_gif",
    "save_sheet",
]
