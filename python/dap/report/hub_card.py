"""The dataset card of a set on the Hugging Face hub, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dap.data.source import Source
from dap.methods import METHODS
from dap.report.command_text import command_of
from dap.report.origin import are_real, without_folders

__all__ = ["hub_card"]

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def hub_card(
    repo_id: str, source: Source, manifest: Mapping[str, Any], *, sheet: str | None, results: Sequence[str] = (),
    copies: int | None = None,
) -> str:  # fmt: skip
    """Return the ``README.md`` of a dataset repository that holds a set as Parquet.

    Args:
        repo_id: The repository, "user/name".
        source: The images.
        manifest: That of the run that made them; empty for the images of others. The card shows the last part of its
            paths.
        sheet: Path of the contact sheet in the repository; None: there is none.
        results: Tables of evaluations, as text.
        copies: How many images are nearer to a real image than this is to another one; None: they were not compared.
    """
    manifest = without_folders(manifest) if manifest else {}
    count, classes = len(source), len(source.class_names)
    licences: Mapping[str, str] = manifest.get("licenses", {})
    size = next((name for most, name in SIZES if count < most), "n>1M")
    head = {
        "pretty_name": repo_id.partition("/")[2], **_licence(licences), "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "dap"], "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}],
    }  # fmt: skip
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {head['pretty_name']}\n"]
    parts.append(_summary(count, classes, manifest))
    if sheet is not None:
        parts.append(f"![The first images of each class]({sheet})\n")
    parts.append(_use(repo_id))
    if manifest:
        parts.append(_making(manifest))
    parts += [f"## Results\n\n```\n{table}\n```\n" for table in results[:1]]
    parts += [f"```\n{table}\n```\n" for table in results[1:]]
    parts.append(_limits(manifest, licences, bool(results), _memorisation(count, copies)))
    if manifest:
        parts.append(_citation(str(manifest["options"]["method"]["name"])))
    return "\n".join(parts)


def _licence(licences: Mapping[str, str]) -> dict[str, str]:
    """The licence in the card's head: that of source and prior, if they have the same and both are known."""
    known = set(licences.values())
    if not known:
        return {}
    return {"license": known.pop()} if len(known) == 1 else {"license": "other", "license_name": "see-below"}


def _summary(count: int, classes: int, manifest: Mapping[str, Any]) -> str:
    if not manifest:
        return f"{count} labelled images of {classes} classes.\n"
    prior, method = manifest["prior"], manifest["options"]["method"]["name"]
    made = f"made them with the diffusion prior `{prior['name']}`" if prior else "made them from the real images"
    if are_real(manifest):
        made = "chose them among the real images"
    return (
        f"{count} images of {classes} classes, which stand for the {manifest['source'].get('images', '')} real images "
        f"of `{manifest['source']['name']}`: a distilled dataset. A classifier is trained on these images in "
        f"place of the real ones. The method `{method}` {made}, seed {manifest['options']['seed']}.\n"
    )


def _use(repo_id: str) -> str:
    return (
        "## Use\n\n```python\nimport dap  # pip install 'dap-distill[parquet]'\n\n"
        f'distilled = dap.load("{repo_id}")\nimages, labels = distilled.to_torch()\n```\n\n'
        f'```python\nimport datasets\n\nrows = datasets.load_dataset("{repo_id}", split="train")\n```\n'
    )


def _making(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    rows = {"method": manifest["options"]["method"]["name"], "seed": manifest["options"]["seed"]}
    rows |= {"source": manifest["source"]["name"], "SHA-256 of the source": manifest["source"]["identity"]}
    if manifest["prior"]:
        rows |= {
            "prior": manifest["prior"]["name"],
            "SHA-256 of the prior": manifest["prior"].get("sha256", "not known"),
        }
    rows |= {"versions": versions, "seconds": round(sum(manifest["seconds"].values()))}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"## How it was made\n\n```bash\n{command_of(manifest)}\n```\n\n| | |\n|---|---|\n{table}\n\n`pack.json` has "
        "all options, and the SHA-256 of each file.\n"
    )


def _memorisation(count: int, copies: int | None) -> str:
    if copies is None:
        return "- A prior may repeat images that it was trained on. `dap metrics --only nearest_real` looks for them."
    return (
        f"- Memorisation check: {copies} of {count} images are nearer to a real image than this is to any other real "
        "image (pixels at 32 x 32)."
    )


def _limits(manifest: Mapping[str, Any], licences: Mapping[str, str], evaluated: bool, memorisation: str) -> str:
    lines = [
        f"- Licence: {', '.join(f'{of} {name}' for of, name in licences.items())}." if licences
        else "- The licences of source and prior are not known to dap. Read them before you share the set."
    ]  # fmt: skip
    if are_real(manifest):
        lines.append("- The images are real ones: people in the source's images may be in these.")
    elif manifest and manifest["prior"]:
        lines.append("- The images come from a generative model. They can be wrong, and have the biases of its data.")
        lines.append(memorisation)
    elif manifest:
        lines.append("- The images are made of real ones: people in the source's images may be seen in these.")
    if not evaluated:
        lines.append("- No accuracy was measured for this card.")
    lines.append("- A set suits the resolution and classes that it was made for, and classifiers trained from scratch.")
    return "## Limits\n\n" + "\n".join(lines) + "\n"


def _citation(method: str) -> str:
    paper = f"The method: {METHODS[method].paper}\n\n" if method in METHODS else ""
    return f"## Citation\n\n{paper}The library: dap (dap-distill on PyPI), CITATION.cff in its repository.\n"
