"""Figures; they are returned, never shown."""

from skeleton_llm.plotting.codebook import plot_rank_frequency, plot_usage
from skeleton_llm.plotting.confusion import plot_confusion
from skeleton_llm.plotting.skeleton import save_gif

__all__ = ["plot_confusion", "plot_rank_frequency", "plot_usage", "save_gif"]
