"""Classifiers for small images, their batched augmentation and training loop; the loop for everything else."""

from __future__ import annotations

from dap.nets.augment import shift_flip
from dap.nets.augmentation import AUGMENTATIONS, Augmentation, Draws, get_augmentation
from dap.nets.convnet import ConvNet, create_net, list_nets
from dap.nets.optimisation import Trained, optimise
from dap.nets.train import accuracy, one_cycle, predict, train_classifier

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "ConvNet",
    "Draws",
    "Trained",
    "accuracy",
    "create_net",
    "get_augmentation",
    "list_nets",
    "one_cycle",
    "optimise",
    "predict",
    "shift_flip",
    "train_classifier",
]
