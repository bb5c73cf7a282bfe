"""Trains classifiers on distilled sets and tests them on real images."""

from __future__ import annotations

from dap.evaluation.judge import Recognition, judge_source, recognised, train_judge
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.run import PROTOCOLS, evaluate_sets, run_protocol
from dap.evaluation.small import Outcome, Small
from dap.evaluation.source import evaluate_source
from dap.evaluation.statistics import Difference, Summary, paired_difference, summary

__all__ = [
    "PROTOCOLS",
    "Difference",
    "EvaluationResult",
    "Outcome",
    "Recognition",
    "Row",
    "Small",
    "Summary",
    "evaluate_sets",
    "evaluate_source",
    "judge_source",
    "paired_difference",
    "recognised",
    "run_protocol",
    "summary",
    "train_judge",
]
