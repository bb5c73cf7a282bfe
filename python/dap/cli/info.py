"""``dap info``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from dap.cli.command import Command, json_option, print_result, quiet_option

__all__ = ["info"]

PACKAGES = ("torch", "diffusers", "timm", "numpy", "safetensors", "Pillow", "datasets")


@click.command(cls=Command, examples=["dap info", "dap info --json -"])
@json_option
@quiet_option
def info() -> None:
    """Shows versions, the build of the Rust core, devices, and the cache."""
    import torch

    from dap._core import build_info
    from dap.storage.cache import cache_folder, cache_size

    rows = {f"core {key}": value for key, value in build_info().items()} | {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    rows["cpu threads"] = torch.get_num_threads()
    rows["gpus"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none"
    rows["cache"] = f"{cache_size() / 1e6:.1f} MB in {cache_folder()}"
    print_result(lambda: "\n".join(f"{name:<16} {value}" for name, value in rows.items()), rows)
