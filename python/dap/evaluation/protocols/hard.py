"""Protocols with hard labels: the recipe of IDC for ImageNet, as later papers took it over.

Sources, with the lines of each constant below:

- IDC: Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv 2205.14959;
  code github.com/snu-mllab/Efficient-Dataset-Condensation.
- Minimax: Gu et al., "Efficient Dataset Distillation via Minimax Diffusion", CVPR 2024, arXiv 2311.15529; code
  github.com/vimar-gu/MinimaxDiffusion. Lines without another name are of this code.
- MGD3: Chan-Santiago et al., ICML 2025, arXiv 2505.18963; its fork ManifoldGD, argument.py and data.py.
- IGD: Chen et al., ICLR 2025, arXiv 2502.09672; train.py. Its argument.py and data.py are not public.
"""

from __future__ import annotations

from dataclasses import replace

from dap.evaluation.protocol import Published
from dap.evaluation.recipe import Case, Recipe

__all__ = ["HARD", "IDC", "IGD", "MGD3", "epochs_by_ipc"]


def epochs_by_ipc(ipc: int, classes: int) -> int:
    """Return the number of epochs for so many images of a class (argument.py 18-43).

    Example:
        >>> [epochs_by_ipc(ipc, 10) for ipc in (1, 10, 50, 100, 500, 1000)]
        [3000, 2000, 1500, 1000, 500, 300]
        >>> [epochs_by_ipc(ipc, 100) for ipc in (1, 10, 50, 100, 500, 1000)]
        [2000, 1300, 1000, 600, 300, 200]
    """
    table = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
    epochs = next((epochs for most, epochs in table if ipc <= most), 300)
    return 2 * epochs // 3 // 100 * 100 if classes == 100 else epochs  # argument.py 39-41


def _minimax(case: Case) -> Recipe:
    return _by_classes(case, many=case.classes > 100)  # argument.py, "if args.nclass > 100"


def _idc(case: Case) -> Recipe:
    return _by_classes(case, many=case.classes >= 100)  # IDC, argument.py 301-307


def _by_classes(case: Case, *, many: bool) -> Recipe:
    return Recipe(
        size=224,  # argument.py 93
        margin=False,  # data.py, transform_imagenet: Resize(size), CenterCrop(size)
        own_size=False,  # data.py, transform_imagenet: the same before RandomResizedCrop
        norm="instance",  # argument.py 107-110
        width=None,  # argument.py 112; train.py, define_model: 128 for ConvNets, 64 for ResNetAP
        grey_padding=3,  # train_models/convnet.py, _make_layers
        epochs=epochs_by_ipc(case.ipc, case.classes),  # argument.py 18-43
        batch_size=128 if many else 64,  # argument.py 116; IDC 306
        optimiser="sgd",  # train.py 102-105
        lr=0.1 if many else 0.01,  # argument.py 117; IDC 303
        schedule="steps",  # train.py 107-108: at 2/3 and 5/6 of the epochs, by 0.2
        momentum=0.9,  # argument.py 118
        weight_decay=1e-4 if many else 5e-4,  # argument.py 119; IDC 304
        decay_all=True,  # train.py 102: model.parameters()
        cadence="hundredth",  # argument.py, "args.epoch_print_freq = args.epochs // 100"; train.py 131
        strips=1,
        crop=0.5,  # data.py, transform_imagenet: RandomResizedCrop(scale=(0.5, 1.0))
        flip=True,  # data.py, transform_imagenet
        jitter=0.4,  # data.py, transform_imagenet; misc/utils.py 236-289
        lighting=0.1,  # data.py, transform_imagenet; misc/utils.py 207-234
        cutmix=1.0,  # argument.py 124-135; train.py 184-196
        labels="hard",  # train.py 101
        temperature=1.0,  # of hard labels: not used
        second_forward=False,
    )


def _mgd3(case: Case) -> Recipe:
    return replace(
        _minimax(case),
        epochs=2000 if case.ipc <= 10 else 1500,  # MGD3, the paper's text
        cadence="epoch",  # ManifoldGD, argument.py 257, 437-445: if epochs are given
    )


def _igd(case: Case) -> Recipe:
    return replace(
        _minimax(case),
        size=256,  # IGD, the paper's text; RAE-IGD, argument.py 115
        optimiser="adamw",  # IGD, train.py
        lr=1e-3,  # IGD, train.py
        weight_decay=0.01,  # IGD, train.py
    )


ONE_SEED = "the code seeds all repeats with 0 together, here each repeat has its own seed"
HARD = Published(
    "hard", _minimax, "Minimax, arXiv 2311.15529, github.com/vimar-gu/MinimaxDiffusion",
    f"{ONE_SEED}; the code reports the best accuracy only", "whole",
)  # fmt: skip
IDC = Published(
    "hard:idc", _idc, "IDC, arXiv 2205.14959, github.com/snu-mllab/Efficient-Dataset-Condensation",
    f"{ONE_SEED}; of the code's recipes the one for ImageNet alone, not that for CIFAR with DSA", "whole",
)  # fmt: skip
MGD3 = Published(
    "hard:mgd3", _mgd3, "MGD3, arXiv 2505.18963, and its fork ManifoldGD",
    "the paper trains once on each of three generated sets; for its sets of 128 or 256 pixels give size", "partly",
)  # fmt: skip
IGD = Published(
    "hard:igd", _igd, "IGD, arXiv 2502.09672, train.py",
    "argument.py and data.py are not public: epochs, batch and augmentation are those of Minimax", "partly",
)  # fmt: skip
