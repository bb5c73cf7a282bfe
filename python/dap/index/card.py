"""The card of a feature index on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import yaml

from dap.index.reader import Index

__all__ = ["index_card"]


def index_card(repo_id: str, index: Index) -> str:
    """Return the ``README.md`` of a dataset repository that holds an index.

    Args:
        repo_id: The repository, "user/name".
        index: The index.
    """
    spec = index.spec
    head = {"pretty_name": repo_id.partition("/")[2], "tags": ["dataset-distillation", "dap", "feature-index"]}
    source = Path(spec.source["name"]).name  # the folders of a machine are nobody else's
    rows = {
        "source": source, "SHA-256 of the source": spec.source["identity"], "SHA-256 of the prior": spec.prior,
        "block": spec.block, "pooling": spec.pooling, "timesteps": ", ".join(map(str, spec.timesteps)),
        "images": len(index), "classes": len(index.classes), "numbers of a feature": spec.feature_shape[0],
        "shape of a latent": " x ".join(map(str, spec.latent_shape)),
    }  # fmt: skip
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {head["pretty_name"]}

Features and latents of the {len(index)} images of `{source}`, computed once by a diffusion prior: a feature index of
dap. With it, `dap distill` makes small sets of these images without the images.

## Use

```bash
dap index pull {repo_id} --out index  # pip install dap-distill
dap distill --index index --prior PRIOR --out distilled
```

`PRIOR` has to be the prior with the hash below: another prior computes other features.

## What it holds

| | |
|---|---|
{table}

## Limits

- Latents are compressed images: the prior's decoder turns them into pictures again. Share an index only if the images
  may be shared.
- The licences of the images and of the prior hold for the index too. dap does not know them.
"""
