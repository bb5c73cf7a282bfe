"""Torch devices by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dap.errors import OptionError

__all__ = ["TRAINING_DTYPES", "fast_dtype", "named_device", "named_dtype", "resolve_device"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TRAINING_DTYPES = (torch.float32, torch.bfloat16)  # in float16 small gradients would be zero


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The named device; for None the GPU if there is one, else the CPU.

    Raises:
        OptionError: The name is not a device's, or this machine has no such device.

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
    try:
        if resolved.type == "meta":
            raise RuntimeError("it holds no values")
        torch.zeros(1, device=resolved)
    except (AssertionError, ImportError, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise OptionError(f"device={device}: torch cannot use it here ({reason}); leave it out or use 'cpu'") from error
    return resolved


def named_dtype(dtype: str | torch.dtype, known: Sequence[torch.dtype] = DTYPES, option: str = "dtype") -> torch.dtype:
    """The dtype with that name, as torch has it, with or without "torch." before it.

    Args:
        dtype: Its name, or itself.
        known: Those that are allowed; by default those in which a prior can compute.
        option: What the option is called, for the error.

    Raises:
        OptionError: It is none of them.

    Example:
        >>> named_dtype("bfloat16")
        torch.bfloat16
    """
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype) or named not in known:
        names = ", ".join(str(allowed).removeprefix("torch.") for allowed in known)
        raise OptionError(f"{option}: expected one of {names}, got {dtype!r}")
    return named


def fast_dtype(device: torch.device) -> torch.dtype:
    """The faster of bfloat16 and float32 for products on a device.

    It is bfloat16 where the device has instructions for it: a GPU of CUDA that says so, or a CPU with AVX-512. On other
    CPUs torch emulates it, many times slower than float32 is.

    Example:
        >>> fast_dtype(torch.device("meta"))
        torch.float32
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if fast else torch.float32


def named_device(device: str | torch.device) -> torch.device:
    """The device with that name, which need not exist on this machine.

    Raises:
        OptionError: The name is not a device's.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"device: expected a name such as 'cpu', 'cuda' or 'cuda:1', got {device!r}") from error
