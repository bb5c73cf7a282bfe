"""``dap distill``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["distill"]


@click.command()
@click.argument("source", required=False)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Output folder; a stopped run is continued."
)
@click.option("--method", default="dap", show_default=True, help='Method, or a preset such as "dap:paper".')
@click.option("--ipc", default=10, show_default=True, help="Images per class.")
@click.option("--seed", default=0, show_default=True, help="Root seed of all random numbers.")
@click.option(
    "--prior", default="fashion-dit", show_default=True, help="Built-in name, folder of a pipeline, or hub id."
)
@click.option("--prior-set", "prior_assignments", multiple=True, metavar="NAME=VALUE",
              help='Option of the prior, such as template="a photo of a {}"; repeatable.')  # fmt: skip
@click.option(
    "--index", type=click.Path(path_type=Path), help="Feature index of the real images; SOURCE is then optional."
)
@click.option("--classes", help="Classes to distil, separated by commas; all if left out.")
@click.option("--label", "labels", multiple=True, metavar="CLASS=LABEL",
              help="The prior's label for an unknown class; empty for the null condition; repeatable.")  # fmt: skip
@click.option(
    "--batch-size", type=int, help="Images sampled together; if left out, as many as fit into memory, at most 100."
)
@click.option("--num-inference-steps", type=int, help="Denoising steps; if left out, the prior's recommendation or 50.")
@click.option(
    "--guidance-scale",
    type=float,
    help="Scale of classifier-free guidance; if left out, the prior's recommendation or 4.",
)
@click.option("--scheduler", help='"ddpm", "ddim", "dpm++", "euler" or "heun"; the prior\'s own if left out.')
@click.option("--eta", type=float, help="Noise level of the DDIM sampler, from 0 to 1.")
@click.option("--device", help='"cpu", "cuda" or "cuda:1"; if left out, the GPU if there is one.')
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the method, such as scale=0.3; repeatable.",
)
def distill(
    source: str | None,
    out: Path,
    method: str,
    ipc: int,
    seed: int,
    prior: str,
    prior_assignments: tuple[str, ...],
    index: Path | None,
    classes: str | None,
    labels: tuple[str, ...],
    batch_size: int | None,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    scheduler: str | None,
    eta: float | None,
    device: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Distils SOURCE (a class-per-folder tree, a built-in name, or a Hugging Face id) into --ipc images per class."""
    from diffusers.utils import logging as diffusers_logging

    from dap.api import distill as run
    from dap.cli.labels import parse_labels
    from dap.config import parse_assignments

    diffusers_logging.set_verbosity_error()  # its messages about loading do not concern the user
    diffusers_logging.disable_progress_bar()
    distilled = run(
        source, out=out, prior=prior, prior_options=parse_assignments(prior_assignments) or None, method=method,
        method_options=parse_assignments(assignments), ipc=ipc, seed=seed,
        index=index, classes=classes.split(",") if classes else None, label_map=parse_labels(labels),
        batch_size=batch_size,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, scheduler=scheduler, eta=eta,
        device=device,
    )  # fmt: skip
    spent = sum(distilled.manifest["seconds"].values())
    click.echo(f"{len(distilled)} images in {out}/train, {spent:.0f} s; see {out}/contact_sheet.png and {out}/dap.json")
