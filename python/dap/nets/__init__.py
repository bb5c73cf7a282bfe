"""Classifiers, their augmentation and training loop, and a resumable loop for other trainings."""

from __future__ import annotations

from dap.nets.activations import activation_bytes, images_at_once
from dap.nets.augmentation import AUGMENTATIONS, Augmentation, Draws, get_augmentation, shift_flip
from dap.nets.convnet import ConvNet
from dap.nets.network import Network
from dap.nets.normalisation import normal_values
from dap.nets.optimisation import Trained, optimise, steps_done
from dap.nets.register import check_network, create_net, list_nets, list_networks
from dap.nets.resnet_ap import ResNetAP
from dap.nets.train import (
    ClassifierTraining,
    accuracy,
    cross_entropy,
    one_cycle,
    predict,
    probabilities,
    train_classifier,
)
from dap.nets.trainable import training_obstacle

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "ClassifierTraining",
    "ConvNet",
    "Draws",
    "Network",
    "ResNetAP",
    "Trained",
    "accuracy",
    "activation_bytes",
    "check_network",
    "create_net",
    "cross_entropy",
    "get_augmentation",
    "images_at_once",
    "list_nets",
    "list_networks",
    "normal_values",
    "one_cycle",
    "optimise",
    "predict",
    "probabilities",
    "shift_flip",
    "steps_done",
    "train_classifier",
    "training_obstacle",
]
