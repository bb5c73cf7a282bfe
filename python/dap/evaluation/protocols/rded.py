"""Protocol ``rded``: the labels are a teacher's probabilities for the mixed images, computed in each step.

Source: Sun et al., "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
CVPR 2024, arXiv 2312.03526; code github.com/LINs-lab/RDED, with the lines of each constant below. The loss is the
Kullback-Leibler divergence between the teacher's and the network's probabilities at temperature 20, without the factor
of its square.
"""

from __future__ import annotations

from dap.evaluation.protocol import Published
from dap.evaluation.recipe import Case, Recipe

__all__ = ["RDED"]

RATES = {
    "vgg11": 5e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "alexnet": 1e-4, "vit_b_16": 1e-4,
    "swin_v2_t": 1e-4,
}  # fmt: skip
"""Learning rates of networks; 1e-3 for ResNets and ConvNets, and here for all others (argument.py 276-306)."""


def _rded(case: Case) -> Recipe:
    cifar_100 = (case.classes, case.side, case.network) == (100, 32, "convnet3")  # argument.py 308-315
    return Recipe(
        size=_size(case),
        margin=True,  # validation/main.py 154
        own_size=True,  # validation/main.py 115-126: no Resize before RandomResizedCrop
        norm="batch",  # synthesize/utils.py 177-218
        width=None,  # synthesize/utils.py 177-218: 128 for ConvNets
        grey_padding=3,  # the ConvNet of its code, as that of Minimax and IDC
        epochs=300,  # argument.py, --re-epochs
        batch_size=25 if cifar_100 else _batch_size(case),
        optimiser="adamw",  # validation/main.py 87-92
        lr=2e-3 if cifar_100 else RATES.get(case.network, 1e-3),
        schedule="half cosine",  # validation/main.py 95-102: from 1 to 0.5
        momentum=0.9,  # of SGD: not used
        weight_decay=0.01,  # argument.py, --adamw-weight-decay
        decay_all=False,  # validation/utils.py, get_parameters
        cadence="tenth, late",  # validation/main.py 179-180
        strips=2,  # argument.py, --factor
        crop=None,  # validation/main.py 119-122: 1 / factor
        flip=True,  # validation/main.py 125
        jitter=0.0,
        lighting=0.0,
        cutmix=1.0,  # argument.py, --mix-type, --cutmix; validation/utils.py, cutmix
        labels="teacher",  # validation/main.py 215-216
        temperature=20.0,  # argument.py, "temperature"
        second_forward=True,  # validation/main.py 213: student(images), whose images are mixed in place
    )


def _size(case: Case) -> int:
    """Side of the images (argument.py 150-230): 32 for CIFAR, 64 for Tiny ImageNet, 128 for deep ConvNets."""
    if case.side in (32, 64):
        return case.side
    return 128 if case.network in ("convnet5", "convnet6") else 224


def _batch_size(case: Case) -> int:
    """Images of a step (argument.py 233-256): by images of a class, twice as many for 100 and for 1,000 classes."""
    if case.classes == 200:  # Tiny ImageNet
        return 100
    images = 10 if case.ipc == 1 else 50 if case.ipc <= 10 else 100
    return 2 * images if case.classes in (100, 1000) else images


RDED = Published(
    "rded", _rded, "RDED, arXiv 2312.03526, github.com/LINs-lab/RDED",
    "all test images count (the code takes the first 50 of a class); the last layer is made for the set's classes (the "
    "code slices one of 1,000); the batch for other images of a class than 1, 10 and 50 is that of the next of these",
    "whole",
)  # fmt: skip
