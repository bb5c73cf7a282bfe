"""``dap plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.run_options import ask, run_options
from dap.cli.values import Out

__all__ = ["plan"]


@click.command(
    cls=Command,
    examples=[
        "dap plan fashion-mini --ipc 50",
        "dap plan imagenet/train --prior facebook/DiT-XL-2-256 --sampling dit-repo --dtype bfloat16",
        "dap plan photos/train --method igd --json -",
    ],
)
@run_options
@click.option("--out", type=Out(), help="Where the run will be written; its disk is looked at.")
@json_option
@quiet_option
@config_options
def plan(out: Path | None, **options: Any) -> None:
    """Says what dap distill with the same options will take: units, operations, memory, disk and time.

    A small part of the run is made and thrown away to tell the time. Nothing is kept, and nothing is written to --out.
    """
    asked = ask(options)

    from dap.api import plan as plan_run
    from dap.run.stopwatch import since_start

    before = since_start()
    forecast = plan_run(asked.images, out=out, index=asked.index, **asked.arguments).begun(*before)
    print_result(lambda: str(forecast), forecast.to_json())
