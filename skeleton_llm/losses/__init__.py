"""LLM-AR's losses, as functions of counts and vectors; they know no ranks."""

from skeleton_llm.losses.codebook import codebook_losses
from skeleton_llm.losses.context import context_loss
from skeleton_llm.losses.mmd import WordMMD, mmd, word_bandwidths
from skeleton_llm.losses.zipf import js_divergence, zipf_loss, zipf_target

__all__ = [
    "WordMMD",
    "codebook_losses",
    "context_loss",
    "js_divergence",
    "mmd",
    "word_bandwidths",
    "zipf_loss",
    "zipf_target",
]
