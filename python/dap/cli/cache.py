"""``dap cache``."""

from __future__ import annotations

import click

__all__ = ["cache"]


@click.group()
def cache() -> None:
    """The references that runs made for themselves; they are made again when they are wanted."""


@cache.command()
def info() -> None:
    """Shows where the cache is and what it takes."""
    from dap.storage.cache import cache_folder, cache_size

    click.echo(f"{cache_size() / 1e6:.1f} MB in {cache_folder()}")


@cache.command()
def clear() -> None:
    """Deletes what dap has put there."""
    from dap.storage.cache import cache_folder, clear_cache

    click.echo(f"{clear_cache() / 1e6:.1f} MB deleted from {cache_folder()}")
