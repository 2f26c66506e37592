"""Metrics over whole splits and all ranks."""

from skeleton_llm.metrics.codebook import CodebookUsage, UsageReport, usage_report
from skeleton_llm.metrics.recognition import MeanClassAccuracy, NameAnswers, normalise_name

__all__ = ["CodebookUsage", "MeanClassAccuracy", "NameAnswers", "UsageReport", "normalise_name", "usage_report"]
