"""``dap distill``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from dap.cli.before_and_after import next_commands, plan_text
from dap.cli.command import Command, announce, announced, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.run_options import ask, run_options
from dap.cli.values import Name, Number, Out, Whole
from dap.stopping import stop_at_signals

__all__ = ["distill"]

# options that change no image
NOT_OF_THE_BYTES = {"source", "out", "index", "remake", "workers", "executor", "address", "max_time", "max_retries"}


@click.command(
    cls=Command,
    examples=[
        "dap distill fashion-mini --out distilled",
        "dap distill photos/train --method dap_set --ipc 20 --out distilled",
        "dap distill photos/train --method k_medoids --features timm/resnet18 --out chosen",
        "dap distill imagenet/train --prior facebook/DiT-XL-2-256 --sampling dit-repo --dtype bfloat16 --out distilled",
        "dap distill photos/train --import my_method.py --method mine --out distilled",
        "dap distill --config run.yaml --ipc 50",
    ],
)
@run_options
@click.option("--out", required=True, type=Out(), help="Output folder; a stopped run is continued.")
@click.option(
    "--remake",
    multiple=True,
    metavar="CLASS/NUMBER",
    help="Make an image of a finished run again with other random numbers, or all of a CLASS; repeatable.",
)
@click.option(
    "--workers",
    default=1,
    type=Whole(),
    show_default=True,
    help="Processes of this machine that make the run together, each on a GPU of its own if there are several.",
)
@click.option(
    "--executor",
    type=Name("executor", ("local", "ray")),
    default="local",
    show_default=True,
    help='"ray": actors of a Ray cluster make the run, as many as --workers, or one for each GPU or machine.',
)
@click.option(
    "--address", metavar="ADDRESS", help='Address of the Ray cluster, such as "auto"; if left out, Ray is started here.'
)
@click.option(
    "--max-time",
    type=Number(0),
    metavar="SECONDS",
    help="After so many seconds finish the images in the making and exit with code 75; the same command continues.",
)
@click.option(
    "--max-retries",
    type=Whole(0),
    default=2,
    show_default=True,
    help="How often images that could not be made are tried again, after all others.",
)
@json_option
@quiet_option
@config_options
def distill(
    out: Path, remake: tuple[str, ...], workers: int, executor: str, address: str | None, max_time: float | None,
    max_retries: int, **options: Any,
) -> None:  # fmt: skip
    """Distils SOURCE (a class-per-folder tree, a built-in name, or a Hugging Face id) into --ipc images per class."""
    from dap.cli.rerun import finished_images, remember
    from dap.data.remake import slots_to_remake

    alone = workers == 1 and executor == "local"
    if not alone and options["label_column"] is not None:
        raise click.UsageError("--label-column goes with one process alone: start the command several times.")
    slots_to_remake(out, remake)  # raises for what is not there, before torch is imported
    asked = ask(options)
    source, method = options["source"], options["method"]
    given = {name: options[name] for name in options.keys() - NOT_OF_THE_BYTES}
    identities = ["" if asked.images is None else asked.images.identity(), "" if not asked.index else asked.index.hash]
    done = None if remake else finished_images(out, given, identities)
    if done is not None:
        _tell(source, out, done, "complete already")
        return

    from dap.api import distill as run
    from dap.methods import get_method
    from dap.run import own_rank

    for name in ("dap.storage.waiting", "dap.run.ray_actors"):
        logging.getLogger(name).setLevel(logging.INFO)  # they say for whom the run waits, and what actors have made
    prior = options["prior"] if get_method(method, options["method_options"]).uses_prior() else None
    rank = own_rank().number
    if rank > 0 or announced():
        logging.getLogger("dap.run.local").setLevel(logging.INFO)  # says what the run needs, and what is there
    if rank == 0:
        announce(plan_text(asked.ipc, asked.classes or asked.known, method, prior, options["seed"], out))
    with stop_at_signals():
        distilled = run(
            asked.images if alone else source, index=asked.index if alone else options["index"], out=out,
            remake=remake, workers=workers, executor=executor, address=address, max_time=max_time,
            max_retries=max_retries, **asked.arguments,
        )  # fmt: skip
    remember(out, given, identities)
    spent = sum(distilled.manifest["seconds"].values())
    _tell(source, out, len(distilled), f"{spent:.0f} s")


def _tell(source: str | None, out: Path, images: int, how: str) -> None:
    from dap.data.manifest import read_manifest

    text = f"{images} images in {out}/train, {how}; see {out}/contact_sheet.png and {out}/dap.json"
    print_result(lambda: text, {"out": str(out), "images": images, "manifest": read_manifest(out)})
    for command in next_commands(source, out):
        announce(f"next: {command}")
