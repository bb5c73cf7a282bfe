"""``dap cache``."""

from __future__ import annotations

import click

from dap.cli.group import Group

__all__ = ["cache"]


@click.group(cls=Group)
def cache() -> None:
    """Shows or clears the cache: feature indexes, latents and downloads that dap can make again."""


@cache.command()
def info() -> None:
    """Shows the cache's folder and size."""
    from dap.storage.cache import cache_folder, cache_size

    click.echo(f"{cache_size() / 1e6:.1f} MB in {cache_folder()}")


@cache.command()
def clear() -> None:
    """Deletes all that dap has stored in the cache."""
    from dap.storage.cache import cache_folder, clear_cache

    click.echo(f"{clear_cache() / 1e6:.1f} MB deleted from {cache_folder()}")
