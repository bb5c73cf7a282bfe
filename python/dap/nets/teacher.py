"""Teachers: networks whose logits are the labels of a set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dap.data.names import some
from dap.errors import OptionError
from dap.nets.normalisation import normal_values
from dap.priors.label_names import IMAGENET_CLASSES, imagenet_names

__all__ = ["Teacher", "output_rows", "resized_side", "state_hash", "teacher_name", "update_state_hash"]

PACKAGES = ("torch", "torchvision", "timm", "dap")  # weights and buffers say what their networks compute
PLAIN = (bool, int, float, str, tuple)


class Teacher(nn.Module):
    """A classifier in eval mode with what is needed to use it: :func:`dap.open_teacher` opens one.

    Args:
        net: Maps images, normalised by ``mean`` and ``std``, to logits.
        name: Its name or file.
        outputs: Number of logits of ``net``.
        class_names: The class of each output; None: they are in the order of the set's classes, or ImageNet's if there
            are 1,000.
        channels: Channels of its images, 1 or 3.
        size: Side in pixels of the images that it was trained on.
        margin: Whether test images are resized to :func:`resized_side` before the middle is cut out.
        mean: Mean of each channel in [0, 1]; None: dap's, which are ImageNet's.
        std: Deviation of each channel; None: dap's.
        accuracy: Its accuracy in per cent where it was trained; None: not known.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        outputs: int,
        class_names: Sequence[str] | None = None,
        channels: int = 3,
        size: int = 224,
        margin: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        accuracy: float | None = None,
    ) -> None:
        super().__init__()
        self.net, self.name, self.outputs = net, name, outputs
        self.class_names = None if class_names is None else tuple(class_names)
        self.channels, self.size, self.margin, self.accuracy = channels, size, margin, accuracy
        own_mean, own_std = (torch.tensor(values) for values in normal_values(channels))
        other_mean = own_mean if mean is None else torch.tensor(mean)
        other_std = own_std if std is None else torch.tensor(std)
        self.scale: Tensor
        self.shift: Tensor
        self.rows: Tensor
        self.register_buffer("scale", (own_std / other_std)[:, None, None])
        self.register_buffer("shift", ((own_mean - other_mean) / other_std)[:, None, None])
        self.register_buffer("rows", torch.arange(outputs))
        self.eval()

    @property
    def test_side(self) -> int:
        """Side in pixels to which test images are resized before the middle of ``size`` is cut out."""
        return resized_side(self.size) if self.margin else self.size

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, channels, S, S) that are normalised as dap's protocols do."""
        logits: Tensor = self.net(images * self.scale + self.shift)
        return logits[:, self.rows]

    def for_classes(self, names: Sequence[str]) -> Teacher:
        """Return the teacher with the outputs of some classes, in their order; the networks are the same object.

        Raises:
            OptionError: It does not know a class, or has another number of outputs than there are names.
        """
        rows = output_rows(self.name, self.outputs, self.class_names, names)
        chosen = Teacher(
            self.net, name=self.name, outputs=self.outputs, class_names=self.class_names, channels=self.channels,
            size=self.size, margin=self.margin, accuracy=self.accuracy,
        )  # fmt: skip
        chosen.scale, chosen.shift, chosen.rows = self.scale, self.shift, torch.tensor(rows)
        return chosen


def resized_side(size: int) -> int:
    """Return the side in pixels of test images whose middle of ``size`` pixels is cut out: 256 for 224, as released.

    The released formula gives less than ``size`` for some sides, such as 32 for 34; then nothing is cut off.

    Example:
        >>> [resized_side(size) for size in (224, 64, 34)]
        [256, 72, 34]
    """
    return max(size, size // 7 * 8)


def teacher_name(teacher: nn.Module) -> str:
    """Return the name of a teacher; of another network that of its class."""
    return teacher.name if isinstance(teacher, Teacher) else type(teacher).__name__


def output_rows(teacher: str, outputs: int, known: Sequence[str] | None, names: Sequence[str]) -> list[int]:
    """Return the output of a teacher for each class name.

    Args:
        teacher: Its name, for the error.
        outputs: The number of its outputs.
        known: The class of each output; None: not known.
        names: The classes of a set.

    Raises:
        OptionError: The teacher does not know a class, or has another number of outputs than there are names.

    Example:
        >>> output_rows("mine", 3, ["a", "b", "c"], ["c", "a"])
        [2, 0]
        >>> output_rows("resnet18", 1000, None, ["n02102040", "tench"])
        [217, 0]
    """
    if known is not None:
        if missing := [name for name in names if name not in known]:
            raise OptionError(
                f"teacher {teacher} has no class {some(missing)}, which the set has; its {outputs} classes are "
                f"{some(known, 20)}"
            )
        return [known.index(name) for name in names]
    if outputs == IMAGENET_CLASSES:
        from dap.data.classmap import find_labels

        labels = find_labels(names, imagenet_names())
        rows = [label for label in labels.values() if label is not None]
        if len(rows) == len(set(rows)) == len(names):
            return rows
        missing = [name for name, label in labels.items() if label is None]
        if len(names) != outputs:
            raise OptionError(
                f"teacher {teacher} has the {outputs} classes of ImageNet, the set has {len(names)} classes; ImageNet "
                f"has no wnid or name {some(missing or names)}; rename the classes, or take another teacher"
            )
    if outputs != len(names):
        raise OptionError(
            f"teacher {teacher} has {outputs} outputs, the set has {len(names)} classes: {some(names)}; take a teacher "
            "of these classes"
        )
    return list(range(outputs))


def state_hash(net: nn.Module) -> str:
    """Return the SHA-256 of what a network computes; see :func:`update_state_hash`."""
    digest = hashlib.sha256()
    update_state_hash(digest, net)
    return digest.hexdigest()


def update_state_hash(digest: hashlib._Hash, net: nn.Module) -> None:
    """Add a network's weights and buffers to a hash; of the user's own classes also their names and plain attributes.

    These tell wrappers apart that differ in a number alone, such as a temperature.
    """
    for name, value in net.state_dict().items():
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode() + content.numpy().tobytes())
    for name, module in net.named_modules():
        kind = type(module)
        if kind.__module__.partition(".")[0] not in PACKAGES:
            own = sorted(set(vars(module)) - set(vars(nn.Module())))
            values = [(key, value) for key in own if isinstance(value := vars(module)[key], PLAIN)]
            digest.update(f"{name} {kind.__qualname__} {values}".encode())
