"""Trains classifiers on distilled sets and tests them on real images."""

from __future__ import annotations

from dap.evaluation.compare import compare
from dap.evaluation.comparison import ComparedRow, Comparison
from dap.evaluation.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from dap.evaluation.error_parts import ErrorParts, crossed_difference, error_parts
from dap.evaluation.judge import Judged, Recognition, judge_images, judge_source, recognised, train_judge
from dap.evaluation.protocol import Outcome, Protocol, Published
from dap.evaluation.recipe import Recipe
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.run import PROTOCOLS, named_protocol, run_protocol
from dap.evaluation.sets import evaluate_sets
from dap.evaluation.small import Small
from dap.evaluation.source import evaluate_source
from dap.evaluation.statistics import Difference, Summary, paired_difference, summary
from dap.evaluation.teacher_check import TeacherCheck, check_teacher, measure_teacher
from dap.evaluation.teacher_train import train_teacher
from dap.nets.teacher import Teacher
from dap.nets.teacher_file import open_teacher, teacher_from_options

__all__ = [
    "PROTOCOLS",
    "ComparedRow",
    "Comparison",
    "Difference",
    "ErrorParts",
    "EvaluationResult",
    "Judged",
    "Outcome",
    "Protocol",
    "Published",
    "Recipe",
    "Recognition",
    "Row",
    "Small",
    "Summary",
    "Teacher",
    "TeacherCheck",
    "augmentation_robust_score",
    "check_teacher",
    "compare",
    "crossed_difference",
    "error_parts",
    "evaluate_sets",
    "evaluate_source",
    "hard_label_recovery",
    "improvement_over_random",
    "judge_images",
    "judge_source",
    "label_robust_score",
    "measure_teacher",
    "named_protocol",
    "open_teacher",
    "paired_difference",
    "recognised",
    "run_protocol",
    "summary",
    "teacher_from_options",
    "train_judge",
    "train_teacher",
]
