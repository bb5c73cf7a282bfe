"""Torch devices by name."""

from __future__ import annotations

import torch

from dap.errors import OptionError

__all__ = ["named_device", "resolve_device"]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The named device; for None the GPU if there is one, else the CPU.

    Raises:
        OptionError: The name is not a device's, or there is no such GPU.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = named_device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device={device}: torch sees {torch.cuda.device_count()} GPUs here; leave it out or use 'cpu'"
        )
    return resolved


def named_device(device: str | torch.device) -> torch.device:
    """The device with that name, which need not exist on this machine.

    Raises:
        OptionError: The name is not a device's.
    """
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device: expected a name such as 'cpu', 'cuda' or 'cuda:1', got {device!r}") from error
