"""``dap distill``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from dap.cli.before_and_after import next_commands, plan_text
from dap.cli.classes import (
    choose_classes,
    choose_ipc,
    classes_option,
    ipc_option,
    label_column_option,
    label_option,
    parse_labels,
)
from dap.cli.command import Command, announce, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.options import channels_option, device_option, precision_options, prior_options, sampling_options
from dap.cli.values import Method, Number, Out, Whole, assignments_option
from dap.stopping import stop_at_signals

__all__ = ["distill"]

NOT_OF_THE_BYTES = {"source", "out", "index", "remake", "workers", "max_time"}  # options that change no image


@click.command(
    cls=Command,
    examples=[
        "dap distill fashion-mini --out distilled",
        "dap distill photos/train --method dap_set --ipc 20 --out distilled",
        "dap distill photos/train --method k_medoids --features timm/resnet18 --out chosen",
        "dap distill imagenet/train --prior facebook/DiT-XL-2-256 --sampling dit-repo --dtype bfloat16 --out distilled",
        "dap distill --config run.yaml --ipc 50",
    ],
)
@click.argument("source", required=False)
@click.option("--out", required=True, type=Out(), help="Output folder; a stopped run is continued.")
@click.option(
    "--method", default="dap", type=Method(), show_default=True, help='Method, or a preset such as "dap:paper".'
)
@ipc_option
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of all random numbers.")
@prior_options
@click.option(
    "--index", type=click.Path(path_type=Path), help="Feature index of the real images; SOURCE is then optional."
)
@classes_option("distil")
@label_option
@label_column_option
@click.option(
    "--batch-size", type=Whole(), help="Images sampled together; if left out, as many as fit into memory, at most 100."
)
@click.option(
    "--num-inference-steps", type=Whole(), help="Denoising steps; if left out, the prior's recommendation or 50."
)
@click.option(
    "--guidance-scale",
    type=Number(1),
    help="Scale of classifier-free guidance; if left out, the prior's recommendation or 4.",
)
@sampling_options
@click.option("--eta", type=Number(0, 1), help="Noise level of the DDIM sampler, from 0 to 1.")
@device_option
@precision_options()
@click.option(
    "--features",
    help='What methods that choose real images compare: "pixels", "vae", "prior", or a model of timm; if left out, the '
    "prior's features if it knows all classes, else pixels.",
)
@assignments_option(
    "--features-set", "features_options", "Option of the features, such as size=16 or weights=FILE; repeatable."
)
@click.option(
    "--size", type=Whole(), help="Side in pixels to which chosen real images are cropped; if left out, their own."
)
@channels_option
@assignments_option("--set", "method_options", "Option of the method, such as scale=0.3; repeatable.")
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
    "--max-time",
    type=Number(0),
    metavar="SECONDS",
    help="End after so many seconds with the images in the making, and exit code 75; the same command continues.",
)
@json_option
@quiet_option
@config_options
def distill(
    source: str | None,
    out: Path,
    method: str,
    ipc: dict[str, int],
    seed: int,
    prior: str,
    prior_options: dict[str, object],
    index: Path | None,
    classes: tuple[str, ...],
    labels: tuple[str, ...],
    label_column: str | None,
    batch_size: int | None,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    sampling: str | None,
    scheduler: str | None,
    timestep_spacing: str | None,
    eta: float | None,
    device: str | None,
    dtype: str | None,
    tf32: bool,
    features: str | None,
    features_options: dict[str, object],
    size: int | None,
    channels: str | None,
    method_options: dict[str, object],
    remake: tuple[str, ...],
    workers: int,
    max_time: float | None,
) -> None:
    """Distils SOURCE (a class-per-folder tree, a built-in name, or a Hugging Face id) into --ipc images per class."""
    from dap.cli.rerun import finished_images, remember
    from dap.data.open import open_source
    from dap.data.remake import slots_to_remake
    from dap.index import open_index

    if workers > 1 and label_column is not None:
        raise click.UsageError("--workers and --label-column do not go together: start the command several times.")
    slots_to_remake(out, remake)  # raises for what is not there, before torch is imported
    label_map = parse_labels(labels)
    indexed = None if index is None else open_index(index)
    images = None if source is None else open_source(source, label_column=label_column)
    if images is not None:
        known = images.class_names
    elif indexed is not None:
        known = tuple(entry.name for entry in indexed.classes)
    else:
        raise click.UsageError("Missing argument 'SOURCE': real images to distil, or --index with an index of them.")
    chosen = choose_classes(classes, known)
    numbers = choose_ipc(ipc, [name for name in known if chosen is None or name in chosen])
    parameters = click.get_current_context().params
    options = {name: parameters[name] for name in parameters.keys() - NOT_OF_THE_BYTES}
    identities = ["" if images is None else images.identity(), "" if indexed is None else indexed.hash]
    done = None if remake else finished_images(out, options, identities)
    if done is not None:
        _tell(source, out, done, "complete already")
        return

    from dap.api import distill as run
    from dap.methods import get_method
    from dap.run import own_rank

    logging.getLogger("dap.run.sharing").setLevel(logging.INFO)  # says for whom it waits
    uses_prior = get_method(method, method_options).uses_prior()
    if own_rank().number == 0:
        announce(plan_text(numbers, chosen or known, method, prior if uses_prior else None, seed, out))
    with stop_at_signals():
        distilled = run(
            images if workers == 1 else source, out=out, prior=prior, prior_options=prior_options or None,
            method=method, method_options=method_options, ipc=numbers, seed=seed,
            index=indexed if workers == 1 else index, classes=chosen, label_map=label_map,
            batch_size=batch_size, sampling=sampling,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, scheduler=scheduler,
            timestep_spacing=timestep_spacing, eta=eta, device=device, dtype=dtype, tf32=tf32, features=features,
            features_options=features_options or None, size=size, channels=channels, remake=remake,
            workers=workers, max_time=max_time,
        )  # fmt: skip
    remember(out, options, identities)
    spent = sum(distilled.manifest["seconds"].values())
    _tell(source, out, len(distilled), f"{spent:.0f} s")


def _tell(source: str | None, out: Path, images: int, how: str) -> None:
    from dap.data.manifest import read_manifest

    text = f"{images} images in {out}/train, {how}; see {out}/contact_sheet.png and {out}/dap.json"
    print_result(lambda: text, {"out": str(out), "images": images, "manifest": read_manifest(out)})
    for command in next_commands(source, out):
        announce(f"next: {command}")
