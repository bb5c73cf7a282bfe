"""The four scores of DD-Ranking, by their formulas.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025, arXiv 2505.13300; formulas and
defaults as in the authors' package, https://github.com/NUS-HPC-AI-Lab/DD-Ranking, version 0.2.0. Accuracies are in per
cent:

    HLR = acc(real, hard labels) − acc(distilled, hard labels)                     lower is better
    IOR = acc(distilled, any labels) − acc(random real, any labels)                higher is better
    LRS = s(w·IOR − (1 − w)·HLR)                                                   higher is better
    ARS = s(γ·IOR with augmentation + (1 − γ)·IOR without)                         higher is better
    s(α) = (e^α − e^−1) / (e − e^−1)

The unit of α decides the scores: the package's code computes s of per cent points, its text says fractions. HLR 20 and
IOR 10 give an LRS of −0.154 in points, and of 0.248 as fractions. ``unit`` names it, and belongs beside each score.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from dap.config import check_choice, check_number

__all__ = ["augmentation_robust_score", "hard_label_recovery", "improvement_over_random", "label_robust_score"]

Unit: TypeAlias = Literal["points", "fractions"]


def hard_label_recovery(real: float, distilled: float) -> float:
    """Return HLR in per cent points: what is lost against training on all real images, with hard labels.

    Example:
        >>> hard_label_recovery(real=90.0, distilled=70.0)
        20.0
    """
    return real - distilled


def improvement_over_random(distilled: float, random: float) -> float:
    """Return IOR in per cent points: what is gained over random real images under the same protocol and teacher.

    Example:
        >>> improvement_over_random(distilled=70.0, random=60.0)
        10.0
    """
    return distilled - random


def label_robust_score(hlr: float, ior: float, *, weight: float = 0.5, unit: Unit = "points") -> float:
    """Return LRS.

    Args:
        hlr: HLR in per cent points.
        ior: IOR in per cent points.
        weight: w, from 0 to 1.
        unit: "points", as the package computes, or "fractions", as its text says.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> round(label_robust_score(20, 10), 3), round(label_robust_score(20, 10, unit="fractions"), 3)
        (-0.154, 0.248)
    """
    check_number("weight", weight, 0, 1)
    return _score(weight * ior - (1 - weight) * hlr, unit)


def augmentation_robust_score(
    ior_augmented: float, ior_plain: float, *, weight: float = 0.5, unit: Unit = "points"
) -> float:
    """Return ARS.

    Args:
        ior_augmented: IOR in per cent points of trainings with augmentation.
        ior_plain: That without augmentation.
        weight: γ, from 0 to 1.
        unit: "points", as the package computes, or "fractions", as its text says.

    Raises:
        OptionError: A value is out of range.

    Example:
        >>> round(augmentation_robust_score(10, 4, unit="fractions"), 3)
        0.3
    """
    check_number("weight", weight, 0, 1)
    return _score(weight * ior_augmented + (1 - weight) * ior_plain, unit)


def _score(alpha: float, unit: Unit) -> float:
    check_choice("unit", unit, ("points", "fractions"))
    alpha = alpha if unit == "points" else alpha / 100
    return (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
