"""Metrics over whole splits and all ranks."""

from skeleton_llm.metrics.codebook import CodebookUsage, UsageReport, usage_report
from skeleton_llm.metrics.recognition import NameAnswers, normalise_name

__all__ = ["CodebookUsage", "NameAnswers", "UsageReport", "normalise_name", "usage_report"]
