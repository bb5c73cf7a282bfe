"""``dap.adapt_prior``: teaches a class-conditional prior classes that it does not know.

What is learned of a class is its embedding, one row for each table in which the network looks labels up (a DiT has one
in every block), by the objective that the network was trained on, with the network frozen; it begins at the row of the
null condition, or at the mean of the known classes where there is none. With ``rank`` the network's attention and
feed-forward layers learn too, by low-rank changes (Hu et al., "LoRA", ICLR 2022), with a tenth of the images under the
null condition, as in the prior's own training. Such changes act on all classes; so that the known ones stay what they
are, the network is held to what it said before, on samples of its own, as DreamBooth does (Ruiz et al., CVPR 2023),

    L = ‖ε − ε_θ(z_t, t, c_new)‖² / D + 4 ‖ε_θ0(s_t, t, c) − ε_θ(s_t, t, c)‖² / D,     s samples of known classes c,

with θ0 the weights before (Li and Hoiem, "Learning without Forgetting", 2016) where DreamBooth has the noise.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dap import rng
from dap.data.classmap import find_labels, null_label
from dap.data.open import SourceLike, open_source
from dap.errors import OptionError
from dap.features import encode_images
from dap.nets import optimise
from dap.priors import BUILTIN, ClassEmbeddingPrior, Prior, load_prior
from dap.priors.adapter import add_low_rank, require_peft, without_low_rank, write_adapter
from dap.sampling import SamplingSettings, denoising_loss, draw_noised, noised_latents, sample
from dap.training.folder import FINISHED, check_folder, training_folder

__all__ = ["adapt_prior"]

logger = logging.getLogger(__name__)

BATCH, WARM_UP, NULL_SHARE, PEAK_LR = 64, 20, 0.1, 1e-3
KEPT, KEPT_BATCH, KEPT_WEIGHT = 256, 32, 4.0  # samples of known classes
ROWS = 20.0  # rows are this times what is learned of them: they want a larger learning rate than weights do


def adapt_prior(
    source: SourceLike,
    *,
    out: str | Path,
    prior: str | Path = "fashion-dit",
    classes: Collection[str] | None = None,
    rank: int = 8,
    steps: int = 600,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Prior:
    """Learns embeddings of classes, and perhaps low-rank changes of the network; the prior itself stays as it is.

    Writes ``out/dap_adapter.json`` and ``out/adapter.safetensors``; ``prior=out`` then is the prior that knows these
    classes too. Training that was killed is continued by the same call and ends with the same bytes; a folder that is
    finished is opened. All images of these classes are held in memory.

    Args:
        source: Real images, as for :func:`dap.distill`.
        out: The folder: new, empty, or of the same training.
        prior: Name, folder or hub id of a ``DiTPipeline``, or of one with a ``UNet2DModel`` that has class embeddings.
        classes: Names of the classes to learn; those of the source that the prior does not know if left out.
        rank: Of the low-rank changes, which need PEFT (extra ``adapt``); 0: the embeddings alone.
        steps: Of 64 images.
        seed: Root of all randomness.
        device: Where to train; the GPU if there is one.
        progress: Show a progress bar.

    Returns:
        The prior that knows the classes.

    Raises:
        DapError: One of its kinds, for a bad option, source, prior or folder, or where there is nothing to learn.

    Example:
        >>> import dap
        >>> prior = dap.adapt_prior("path/to/train", prior="my-prior", out="adapted")  # doctest: +SKIP
        >>> distilled = dap.distill("path/to/train", prior="adapted", out="distilled")  # doctest: +SKIP
    """
    for option, value, least in (("rank", rank, 0), ("steps", steps, 1)):
        if type(value) is not int or value < least:
            raise OptionError(f"{option}: expected a whole number of at least {least}, got {value!r}")
    if rank:
        require_peft()
    if not isinstance(prior, str | Path):
        raise OptionError("prior: expected a name, folder or hub id, by which the adapter can find it again")
    images = open_source(source, classes=classes)
    model = load_prior(prior, device=device)
    if not isinstance(model, ClassEmbeddingPrior):
        raise OptionError(
            f"{prior}: expected a prior with class embeddings; for a text prior use prompts, or method 'd3m'"
        )
    known = find_labels(images.class_names, model.labels_of(images.class_names))
    names = list(images.class_names) if classes else [name for name, label in known.items() if label is None]
    if not names:
        raise OptionError(f"{prior}: knows all classes of {images.name} already; name those to learn again (classes=)")
    base = str(Path(prior).resolve()) if prior not in BUILTIN and Path(prior).is_dir() else str(prior)
    sha256 = str(model.describe()["sha256"])
    identity = {
        "what": "dap.adapt_prior", "source": images.identity(), "prior": sha256, "classes": names,
        "rank": rank, "steps": steps, "seed": seed, "device": model.device.type,
    }  # fmt: skip
    folder = Path(out)
    if not check_folder(folder, identity):
        with training_folder(folder, identity) as workshop:
            chosen = images.subset(names)
            pixels = chosen.images(range(len(chosen)), size=model.image_shape[1], channels=model.image_shape[0])
            labels = torch.tensor([names.index(chosen.class_names[label]) for label in chosen.labels])
            latents = encode_images(model, torch.from_numpy(pixels)).cpu()
            rows, low_rank = _learn(model, latents, labels, identity, workshop / "checkpoint.safetensors", progress)
            (workshop / FINISHED).mkdir(exist_ok=True)
            learned = dict(zip(names, rows, strict=True))
            write_adapter(workshop / FINISHED, base, sha256, learned, low_rank, rank)
    return load_prior(folder, device=device)


def _learn(
    model: Any, latents: Tensor, labels: Tensor, identity: dict[str, Any], checkpoint: Path, progress: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rows (classes, tables, D), and the low-rank changes by name."""
    seed, rank, names = identity["seed"], identity["rank"], identity["classes"]
    known = torch.tensor(sorted(set(model.labels_of(names).values())))
    null = torch.tensor([null_label("")])
    start = model.condition(null if model.has_null else known).mean(0)
    moved = torch.zeros(len(names), *start.shape, device=start.device, requires_grad=True)
    kept = _samples(model, known, seed) if rank else latents[:0]
    low_rank = add_low_rank(model.denoiser, rank, rng.derive_seed(seed, "low rank")) if rank else {}
    label = torch.zeros(BATCH, dtype=torch.int64)  # the rows come before it

    def learnt(draw: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (BATCH,), generator=draw)
        noise, timesteps = draw_noised(BATCH, model, draw)
        condition = start + ROWS * moved[labels[chosen].to(moved.device)]
        condition = nulled(condition, draw) if rank else condition
        return denoising_loss(model, latents[chosen], noise, timesteps, label, condition=condition).mean()

    def forgotten(draw: torch.Generator) -> Tensor:
        chosen = torch.randint(len(kept), (KEPT_BATCH,), generator=draw)
        noise, timesteps = draw_noised(KEPT_BATCH, model, draw)
        condition = nulled(model.condition(known[chosen % len(known)]), draw)
        noised, timesteps = noised_latents(model, kept[chosen], noise, timesteps), timesteps.to(model.device)

        def estimate() -> Tensor:
            own: Tensor = model.denoise(noised, timesteps, label[:KEPT_BATCH], through=True, condition=condition).eps
            return own

        with torch.no_grad(), without_low_rank(model.denoiser):
            before = estimate()
        return (estimate() - before).square().mean()

    def nulled(condition: Tensor, draw: torch.Generator) -> Tensor:
        """A tenth of the rows are those of the null condition, where there is one."""
        dropped = torch.rand(len(condition), generator=draw) < NULL_SHARE
        return (
            torch.where(dropped.to(condition.device)[:, None, None], start, condition) if model.has_null else condition
        )

    def loss(draw: torch.Generator) -> Tensor:
        return KEPT_WEIGHT * forgotten(draw) + learnt(draw) if rank else learnt(draw)

    optimise(
        {"rows": moved, **low_rank}, loss, steps=identity["steps"], peak_lr=PEAK_LR, warm_up=WARM_UP,
        seed=(seed, "adapt"), checkpoint=checkpoint, title="adapting", progress=progress,
    )  # fmt: skip
    return start + ROWS * moved.detach(), low_rank


@torch.no_grad()
def _samples(model: Any, known: Tensor, seed: int) -> Tensor:
    """Latents of the prior's own samples, the known classes in turn, without guidance."""
    settings = SamplingSettings.choose(model.recommended, guidance_scale=1.0)
    batches = [
        sample(
            model, known[numbers % len(known)],
            [rng.generator(seed, "kept", number) for number in numbers.tolist()], settings=settings,
        ).cpu()
        for numbers in torch.arange(KEPT).split(BATCH)
    ]  # fmt: skip
    return torch.cat(batches)
