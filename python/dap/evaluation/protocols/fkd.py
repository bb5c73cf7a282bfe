"""Protocol ``fkd``: the labels of all epochs are a teacher's logits, computed once and stored with their crops.

Sources: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022, arXiv 2112.01528;
Yin, Xing and Shen, "Squeeze, Recover and Relabel", NeurIPS 2023, arXiv 2306.13092; code github.com/VILA-Lab/SRe2L, with
the file and lines of each constant below; G-VBSM and D4M follow it. The loss is the Kullback-Leibler divergence between
the teacher's and the network's probabilities at temperature 20, without the factor of its square.
"""

from __future__ import annotations

from dataclasses import replace

from dap.evaluation.protocol import Published
from dap.evaluation.recipe import Case, Recipe

__all__ = ["D4M", "FKD"]


def _fkd(case: Case) -> Recipe:
    return Recipe(
        size=224,  # relabel/relabel.sh, --input-size; validate/train_FKD.py 104-117
        margin=True,  # validate/train_FKD.py 133-140: Resize(256), CenterCrop(224)
        own_size=True,  # validate/train_FKD.py 104-117: no Resize before RandomResizedCrop
        norm="batch",  # torchvision's networks
        width=None,
        grey_padding=3,  # of the ConvNet in the code of Minimax and IDC; this code has no grey images
        epochs=300,  # relabel/relabel.sh, --epochs; validate/train_FKD.py, --epochs
        batch_size=1024,  # relabel/relabel.sh, -b; validate/train_FKD.sh, --batch-size
        optimiser="adamw",  # validate/train_FKD.py 157
        lr=1e-3,  # validate/train_FKD.py, --adamw-lr
        schedule="cosine",  # validate/train_FKD.py 163; train_FKD.sh, --cos
        momentum=0.9,  # of SGD: not used
        weight_decay=0.01,  # validate/train_FKD.py, --adamw-weight-decay
        decay_all=False,  # validate/utils.py, get_parameters
        cadence="tenth",  # validate/train_FKD.py 183: epochs 0, 10, 20 … and the last
        strips=1,
        crop=0.08,  # relabel/relabel.sh, --min-scale-crops
        flip=True,  # validate/train_FKD.py 104-117
        jitter=0.0,
        lighting=0.0,
        cutmix=1.0,  # relabel/relabel.sh, --mix-type; generate_soft_label.py, --cutmix
        labels="stored",  # validate/train_FKD.py 240-253
        temperature=20.0,  # validate/train_FKD.sh, -T; the argument's own default is 3
        second_forward=False,
        accumulation=2,  # validate/train_FKD.sh, --gradient-accumulation-steps
    )


def _d4m(case: Case) -> Recipe:
    return replace(_fkd(case), cadence="fiftieth")  # D4M's train_FKD.py: every 50 epochs


DIFFERS = (
    "the teacher's rows are sliced to the set's classes and the last layer is made for them (the code has 1,000); "
    "images are resized as tensors, with antialiasing, as PIL does; seed 42 draws other crops than the code's"
)
FKD = Published("fkd", _fkd, "SRe2L, arXiv 2306.13092, github.com/VILA-Lab/SRe2L", DIFFERS, "whole")
D4M = Published("fkd:d4m", _d4m, "D4M, arXiv 2407.15138, which follows SRe2L's code", DIFFERS, "partly")
