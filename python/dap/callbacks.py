"""Code of your own in a run, and loggers: TensorBoard, Weights & Biases, trackio.

    dap.distill("photos/train", callbacks=[dap.callbacks.TensorBoard("logs")], out="distilled")

A callback sees each denoising step, each unit of images that is ready, and the end. It does not change the bytes of a
run unless ``on_step_end`` returns other latents. Whatever it raises ends the run; the same call continues it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dap.config import check_whole
from dap.errors import OptionError
from dap.sampling import ENERGY
from dap.seams import Seam

if TYPE_CHECKING:
    from torch import Tensor

    from dap.priors import Prior

__all__ = ["Callback", "Logger", "MadeUnit", "TensorBoard", "Trackio", "WandB"]


@dataclass(frozen=True)
class MadeUnit:
    """Images that are ready.

    Attributes:
        names: The name of each image, such as "Bag/3".
        images: Each uint8 (channels, H, W).
        seconds: How long they took.
    """

    names: tuple[str, ...]
    images: Sequence[Tensor]
    seconds: float


class Callback(Seam):
    """The base class of callbacks of :func:`dap.distill`: each function does nothing unless a subclass writes it.

    Example:
        >>> class Progress(Callback):
        ...     def on_unit_end(self, made):
        ...         print(made.names, made.seconds)
    """

    seam: ClassVar[str] = "callback"

    def on_step_end(self, prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Called after a denoising step, with the arguments of diffusers' ``callback_on_step_end``.

        Args:
            prior: The prior; ``prior.pipeline`` is the diffusers pipeline where it has one.
            step: Number of the step, from 0.
            timestep: t of the noise schedule.
            tensors: "latents" (B, C, h, w), and "energy." with the name of each energy term that acted: its energies
                (B,) before its scale.

        Returns:
            A dict with the "latents" with which the run goes on.
        """
        return tensors

    def on_unit_end(self, made: MadeUnit) -> None:
        """Called when the images of a unit are written."""

    def on_run_end(self) -> None:
        """Called at the end of the run, also if an error or a signal ends it."""


class Logger(Callback):
    """The base class of loggers: the mean energy of each step, and images, their number and seconds of each unit.

    Args:
        images: Most images of a unit that are shown.
    """

    def __init__(self, *, images: int = 100) -> None:
        self._most, self._steps, self._made, self._seconds = check_whole("images", images, 0), 0, 0, 0.0

    @abstractmethod
    def log(self, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Log numbers, and pictures, uint8 (H, W, 1 or 3), by their names at a step of this process."""

    def on_step_end(self, prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log the mean of each term's energies."""
        self._steps += 1
        energies = {
            f"energy/{name.removeprefix(ENERGY)}": float(values.mean())
            for name, values in tensors.items()
            if name.startswith(ENERGY)
        }
        if energies:
            self.log({**energies, "timestep": timestep}, {}, self._steps)
        return tensors

    def on_unit_end(self, made: MadeUnit) -> None:
        """Log images and cost."""
        self._made, self._seconds = self._made + len(made.images), self._seconds + made.seconds
        shown = made.images[: self._most]
        pictures = {f"images/{made.names[0]}": _grid([image.numpy() for image in shown])} if len(shown) else {}
        numbers = {"images": self._made, "seconds": self._seconds, "seconds per image": made.seconds / len(made.images)}
        self.log(numbers, pictures, self._steps)


class TensorBoard(Logger):
    """Logs to a folder that ``tensorboard --logdir`` shows.

    Args:
        folder: The folder of the event files.
        images: Most images of a unit that are shown.
    """

    def __init__(self, folder: str | Path, *, images: int = 100) -> None:
        super().__init__(images=images)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder))

    def log(self, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Write an event for each."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        for name, pixels in pictures.items():
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def on_run_end(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class WandB(Logger):
    """Logs to Weights & Biases.

    Args:
        project: The project.
        images: Most images of a unit that are shown.
        options: Options of ``wandb.init``, such as ``mode="offline"``, ``name`` and ``dir``.
    """

    def __init__(self, project: str, *, images: int = 100, **options: Any) -> None:
        super().__init__(images=images)
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self._image, self._run = wandb.Image, wandb.init(project=project, **options)

    def log(self, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Log one row."""
        self._run.log({**numbers, **{name: self._image(pixels) for name, pixels in pictures.items()}}, step=step)

    def on_run_end(self) -> None:
        """Finish the run of wandb."""
        self._run.finish()


class Trackio(Logger):
    """Logs to trackio.

    Args:
        project: The project.
        images: Most images of a unit that are shown.
        options: Options of ``trackio.init``, such as ``name`` and ``space_id``.
    """

    def __init__(self, project: str, *, images: int = 100, **options: Any) -> None:
        super().__init__(images=images)
        try:
            import trackio
        except ImportError as error:
            raise _missing("trackio") from error
        self._trackio: Any = trackio
        trackio.init(project=project, **options)

    def log(self, numbers: Mapping[str, float], pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Log one row."""
        images = {
            name: self._trackio.Image(pixels.repeat(3 // pixels.shape[2], 2)) for name, pixels in pictures.items()
        }
        self._trackio.log({**numbers, **images}, step=step)

    def on_run_end(self) -> None:
        """Finish the run of trackio."""
        self._trackio.finish()


def _missing(package: str) -> OptionError:
    return OptionError(f"callbacks need {package}: pip install 'dap-distill[{package}]'")


def _grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images (channels, H, W), which may differ in size, side by side, ten in a row: uint8 (H, W, channels)."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    columns = min(10, len(images))
    canvas = np.zeros((-(-len(images) // columns) * height, columns * width, images[0].shape[0]), np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * height, number % columns * width
        canvas[top : top + image.shape[1], left : left + image.shape[2]] = image.transpose(1, 2, 0)
    return canvas
