"""The Poincare ball."""

from skeleton_llm.geometry.poincare import dist, expmap0, logmap0, nearest, pairwise_dist, tangent_dist

__all__ = ["dist", "expmap0", "logmap0", "nearest", "pairwise_dist", "tangent_dist"]
