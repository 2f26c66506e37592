"""Metrics over whole splits and all ranks."""

from skeleton_llm.metrics.answers import ClassReport, Confused, class_reports, confused_pairs
from skeleton_llm.metrics.bootstrap import Interval, bootstrap_interval, bootstrap_means
from skeleton_llm.metrics.calibration import (
    ClipScores,
    Reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
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
from skeleton_llm.metrics.ensemble import SplitScores, read_scores, write_scores
from skeleton_llm.metrics.recognition import MeanClassAccuracy, NameAnswers, normalise_name

__all__ = [
    "ClassReport",
    "ClipScores",
    "CodeClassCounts",
    "CodebookUsage",
    "Confused",
    "Interval",
    "LatentNorms",
    "MeanClassAccuracy",
    "NameAnswers",
    "NormReport",
    "PairCorrelation",
    "Reliability",
    "SplitScores",
    "TokenLifetimes",
    "UsageReport",
    "bootstrap_interval",
    "bootstrap_means",
    "class_reports",
    "confused_pairs",
    "entropy",
    "expected_calibration_error",
    "fit_temperature",
    "mutual_information",
    "normalise_name",
    "read_scores",
    "reliability",
    "usage_report",
    "write_scores",
]
