"""Where torch code runs."""

from __future__ import annotations

import torch

from dap.errors import OptionError

__all__ = ["named_device", "resolve_device"]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device that is named; for None the GPU, or the CPU where there is none.

    Raises:
        OptionError: There is no such kind of device, or no GPU.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = named_device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device={device}: torch sees {torch.cuda.device_count()} GPUs here; leave it out or use 'cpu'"
        )
    return found


def named_device(device: str | torch.device) -> torch.device:
    """The device of that name, whether it is there or not.

    Raises:
        OptionError: There is no such kind of device.
    """
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device: expected a name such as 'cpu', 'cuda' or 'cuda:1', got {device!r}") from error
