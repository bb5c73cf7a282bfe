"""``dap cache``."""

from __future__ import annotations

import click

from dap.cli.command import json_option, print_result, quiet_option
from dap.cli.group import Group

__all__ = ["cache"]


@click.group(cls=Group)
def cache() -> None:
    """Shows or clears the cache: what dap has computed or downloaded and can make again.

    DAP_CACHE names its folder. DAP_CACHE_SIZE, such as 50GB, bounds it: what was not used for the longest time is
    removed, but nothing that a run uses. Without it nothing is removed.
    """


@cache.command(examples=["dap cache info", "DAP_CACHE_SIZE=50GB dap cache info"])
@json_option
@quiet_option
def info() -> None:
    """Shows the cache's folder and size, and what takes it."""
    from dap.storage.cache import cache_folder, cache_size
    from dap.storage.cache_bound import cache_limit, cached_paths

    limit = cache_limit()
    bound = "" if limit is None else f", DAP_CACHE_SIZE allows {limit / 1e6:.1f} MB"
    size = cache_size()
    lines = [f"{size / 1e6:.1f} MB in {cache_folder()}{bound}"]
    sizes: dict[str, list[int]] = {}
    for cached in cached_paths():
        kind = "not finished" if cached.being_made else cached.path.relative_to(cache_folder()).parts[0]
        sizes.setdefault(kind, []).append(cached.bytes)
    for kind, counts in sorted(sizes.items()):
        lines.append(f"  {kind:<14}{sum(counts) / 1e6:>10.1f} MB{len(counts):>8}")
    kinds = {kind: {"entries": len(counts), "bytes": sum(counts)} for kind, counts in sorted(sizes.items())}
    print_result(
        lambda: "\n".join(lines), {"folder": str(cache_folder()), "bytes": size, "limit": limit, "kinds": kinds}
    )


@cache.command(examples=["dap cache clear"])
@json_option
@quiet_option
def clear() -> None:
    """Deletes all that dap has stored in the cache."""
    from dap.storage.cache import cache_folder, clear_cache

    deleted = clear_cache()
    print_result(
        lambda: f"{deleted / 1e6:.1f} MB deleted from {cache_folder()}",
        {"folder": str(cache_folder()), "bytes": deleted},
    )
