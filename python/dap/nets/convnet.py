"""The ConvNet of the dataset-distillation literature.

Architecture: Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR 2018, in the form that
dataset distillation uses since Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021: depth
times [3×3 convolution, padding 1 → GroupNorm(C, C), which is instance normalisation with an affine map → ReLU → 2×2
average pooling], then one linear layer. RDED (arXiv 2312.03526) has batch normalisation instead. The first convolution
of grey images has padding 3 in the code of IDC and Minimax (train_models/convnet.py, ``_make_layers``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dap.errors import OptionError
from dap.nets.average_pool import AveragePool
from dap.nets.network import Network

__all__ = ["ConvNet"]


class ConvNet(Network):
    """``depth`` blocks of convolution, normalisation, ReLU and pooling, then one linear layer.

    The weights are drawn from ``generator`` alone, by PyTorch's default rule; the global random state is not used.
    They are in channels-last order, which is quicker on a CPU; torch's convolutions convert the images to it.

    Args:
        depth: Number of blocks; each halves the side (odd sides are rounded down).
        width: Channels of every block.
        channels: Channels of the images.
        classes: Number of classes.
        size: Side of the square images in pixels, at least ``2 ** depth``.
        generator: CPU generator of the initial weights.
        norm: "instance" or "batch".
        first_padding: Padding of the first convolution: 1, or 3 as in the references for grey images.

    Raises:
        OptionError: The images are too small for ``depth`` poolings.

    Example:
        >>> net = ConvNet(depth=3, width=32, channels=1, classes=10, size=32, generator=torch.Generator())
        >>> net(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        channels: int,
        classes: int,
        size: int,
        generator: torch.Generator,
        norm: str = "instance",
        first_padding: int = 1,
    ) -> None:
        super().__init__()
        side = (size + 2 * first_padding - 2) // 2**depth
        if side < 1:
            raise OptionError(
                f"size: a ConvNet of depth {depth} needs images of at least {2**depth} pixels, got {size}"
            )
        layers: list[nn.Module] = []
        with torch.device("meta"):  # without memory and random numbers for weights that are overwritten below
            for block in range(depth):
                layers += [
                    nn.Conv2d(width if block else channels, width, 3, padding=1 if block else first_padding),
                    nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width, width),
                    nn.ReLU(),
                    AveragePool(2),
                ]
            layers += [nn.Flatten(), nn.Linear(width * side * side, classes)]
        self.layers = nn.Sequential(*layers).to_empty(device="cpu")
        self._initialise(generator)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # kaiming_uniform with a = √5 and the rule for biases are both U(−b, b) with b = 1 / √(fan in).
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                assert layer.bias is not None
                layer.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.GroupNorm | nn.BatchNorm2d):
                layer.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, with shape (B, classes)."""
        logits: Tensor = self.layers(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, with shape (B, width · side²)."""
        hidden: Tensor = self.layers[:-1](images)
        return hidden
