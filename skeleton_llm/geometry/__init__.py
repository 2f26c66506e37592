"""The Poincare ball."""

from skeleton_llm.geometry.poincare import dist, expmap0, logmap0, nearest, pairwise_dist, project, tangent_dist

__all__ = ["dist", "expmap0", "logmap0", "nearest", "pairwise_dist", "project", "tangent_dist"]
