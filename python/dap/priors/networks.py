"""Readers of a pipeline's networks: behind wrappers, and with configurations that lack some entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dap.errors import DivergedError, OptionError

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin

__all__ = ["image_scale", "overflow_error", "square_side", "uncompiled"]

FIRST_STAGE = ("in_channels", "block_out_channels", "scaling_factor")  # entries of its configuration that are read


def uncompiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module)  # torch's name


def square_side(name: str, size: Any) -> int:
    """Return the side of a network's input from the ``sample_size`` of its configuration: n, or [n, n].

    Raises:
        OptionError: It is missing, or not that of a square.
    """
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides) or sides[0] != sides[1]:
        raise OptionError(
            f"{name}: expected the sample_size of a square in the network's configuration, such as 64, got {size}; "
            "set it to the side of a latent"
        )
    return int(sides[0])


def image_scale(name: str, first_stage: ModelMixin) -> tuple[int, int]:
    """Return the channels of an image, and how many pixels stand for one position of a latent on each side.

    Raises:
        OptionError: Its configuration is not that of an ``AutoencoderKL`` or ``VQModel``.
    """
    config = first_stage.config
    lacking = [key for key in FIRST_STAGE if config.get(key) is None]
    if lacking:
        raise OptionError(
            f"{name}: expected an AutoencoderKL or VQModel as first stage, the configuration of this "
            f"{type(first_stage).__name__} has no {' and no '.join(lacking)}"
        )
    return config.in_channels, 2 ** (len(config.block_out_channels) - 1)


def overflow_error(name: str, part: str, dtype: torch.dtype) -> DivergedError:
    """Return the error for an encoder or decoder whose output is infinite or not a number."""
    advice = "check its weights"
    if dtype.itemsize < 4:
        advice = "keep it in float32 (pipeline.vae.to(torch.float32), with the pipeline as prior)"
    return DivergedError(f"{name}: the first stage's {part} gives values that are not finite in {dtype}; {advice}")
