"""Metrics over whole splits and all ranks."""

from skeleton_llm.metrics.codebook import (
    CodebookUsage,
    CodeClassCounts,
    LatentNorms,
    NormReport,
    PairCorrelation,
    TokenLifetimes,
    UsageReport,
    entropy,
    mutual_information,
    usage_report,
)
from skeleton_llm.metrics.recognition import MeanClassAccuracy, NameAnswers, normalise_name

__all__ = [
    "CodeClassCounts",
    "CodebookUsage",
    "LatentNorms",
    "MeanClassAccuracy",
    "NameAnswers",
    "NormReport",
    "PairCorrelation",
    "TokenLifetimes",
    "UsageReport",
    "entropy",
    "mutual_information",
    "normalise_name",
    "usage_report",
]
