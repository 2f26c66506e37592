"""Figures and moving pictures."""

from skeleton_llm.plotting.codebook import plot_rank_frequency, plot_usage
from skeleton_llm.plotting.confusion import plot_confusion
from skeleton_llm.plotting.skeleton import blank, draw_frames, draw_gif, draw_sheet, join_gif, save_gif, save_sheet

__all__ = [
    "blank",
    "draw_frames",
    "draw_gif",
    "draw_sheet",
    "join_gif",
    "plot_confusion",
    "plot_rank_frequency",
    "plot_usage",
    "save_gif",
    "save_sheet",
]
