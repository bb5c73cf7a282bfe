"""``dap.adapt_prior``: teaching a class-conditional prior new classes.

The network is frozen, and an embedding is learned for each new class with the objective that the network was trained
on: one row for each table in which the network looks labels up (a DiT has one in every block). The rows start at those
of the null condition, or at the mean of the known classes if there is no null condition. With ``rank`` the network's
attention and feed-forward layers also learn, by low-rank changes (Hu et al., "LoRA", ICLR 2022); then a tenth of the
images are under the null condition, as in the prior's own training. Low-rank changes act on all classes. To preserve
the known classes, the network is held to its earlier predictions on its own samples of them, as in DreamBooth (Ruiz et
al., CVPR 2023):

    L = ‖ε − ε_θ(z_t, t, c_new)‖² / D + 4 ‖ε_θ0(s_t, t, c) − ε_θ(s_t, t, c)‖² / D,     s samples of known classes c,

with the predictions of the weights θ0 before the training (Li and Hoiem, "Learning without Forgetting", 2016), where
DreamBooth uses the noise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.config import check_whole
from dap.data.classmap import find_labels, null_label
from dap.data.open import SourceLike, open_source
from dap.data.stack import read_images
from dap.device import TRAINING_DTYPES, named_dtype
from dap.errors import OptionError
from dap.features import check_channels, check_images, encode_images
from dap.nets import optimise
from dap.priors import ClassEmbeddingPrior, Prior, load_prior
from dap.priors.adapter import add_low_rank, require_peft, without_low_rank, write_adapter
from dap.sampling import SamplingSettings, denoising_loss, draw_noised, noised_latents, sample
from dap.short_memory import memory_for
from dap.torch_state import own_torch_state
from dap.training.folder import FINISHED, check_folder, precision_of_training, training_folder

__all__ = ["adapt_prior"]

BATCH, WARM_UP, NULL_SHARE, PEAK_LR = 64, 20, 0.1, 1e-3
SAMPLES, SAMPLE_BATCH, SAMPLE_WEIGHT = 256, 32, 4.0  # the prior's own samples of known classes, for preservation
ROWS = 20.0  # factor from what is learned to the rows: they need a larger learning rate than weights do


@own_torch_state()
@memory_for("to adapt the prior", "a smaller prior or another device, or on a GPU dtype='bfloat16'")
def adapt_prior(
    source: SourceLike,
    *,
    out: str | Path,
    prior: str | Path = "fashion-dit",
    classes: Collection[str] | None = None,
    channels: str | None = None,
    rank: int = 8,
    steps: int = 600,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    tf32: bool = False,
    progress: bool = True,
) -> Prior:
    """Learn embeddings of new classes and low-rank changes of the network; the prior's files do not change.

    Writes ``out/dap_adapter.json`` and ``out/adapter.safetensors``; ``prior=out`` is then the prior that also knows
    these classes. After a kill the same call continues and ends with the same bytes; if the folder is finished, it is
    loaded. All images of the new classes are held in memory.

    Args:
        source: Real images, as for :func:`dap.distill`.
        out: The training folder: new, empty, or of the same training.
        prior: Name, folder or hub id of a ``DiTPipeline``, or of a pipeline whose ``UNet2DModel`` has class embeddings.
        classes: Names of the classes to learn; if left out, those of the source that the prior does not know.
        channels: "grey" or "rgb": convert images whose channels are not those of the prior, instead of refusing them.
        rank: Rank of the low-rank changes, which need PEFT (extra ``adapt``); 0: learn the embeddings alone.
        steps: Number of steps, each on 64 images.
        seed: Root seed of all randomness.
        device: Where to train; the GPU if there is one.
        dtype: Of the frozen network, "float32" or "bfloat16"; what is learned is in float32.
        tf32: Let a GPU multiply float32 numbers with the ten fraction bits of TF32. CPUs ignore it.
        progress: Show a progress bar.

    Returns:
        The prior that knows the classes.

    Raises:
        DapError: One of its kinds, for a bad option, source, prior or folder, or if the prior knows all classes.

    Example:
        >>> import dap
        >>> prior = dap.adapt_prior("path/to/train", prior="my-prior", out="adapted")  # doctest: +SKIP
        >>> distilled = dap.distill("path/to/train", prior="adapted", out="distilled")  # doctest: +SKIP
    """
    check_whole("rank", rank, 0)
    check_whole("steps", steps)
    check_channels(channels)
    if rank:
        require_peft()
    if not isinstance(prior, str | Path):
        raise OptionError(f"prior: expected a name, folder or hub id to write into the adapter, got {prior!r}")
    images = open_source(source, classes=classes)
    computed_in = named_dtype(dtype, TRAINING_DTYPES)
    model = load_prior(prior, device=device, dtype=computed_in)
    if not isinstance(model, ClassEmbeddingPrior):
        raise OptionError(
            f"{prior}: expected a prior with class embeddings; for a text prior use prompts, or method 'd3m'"
        )
    known = find_labels(images.class_names, model.labels_of(images.class_names))
    names = list(images.class_names) if classes else [name for name, label in known.items() if label is None]
    if not names:
        raise OptionError(f"{prior}: knows all classes of {images.name}; to learn some again, name them (classes=)")
    check_images(images, model, channels)
    sha256 = str(model.describe()["sha256"])
    identity = {
        "what": "dap.adapt_prior", "source": images.identity(), "prior": sha256, "classes": names,
        "rank": rank, "steps": steps, "seed": seed, "device": model.device.type,
        **precision_of_training(computed_in, torch.float32, tf32, model.device),
    }  # fmt: skip
    folder = Path(out)
    if not check_folder(folder, identity):
        with training_folder(folder, identity) as unfinished, own_torch_state(tf32=tf32):
            subset, bars = images.subset(names), Bars(shown=progress)
            made, size, _ = model.image_shape
            pixels = read_images(subset, np.arange(len(subset)), size=size, channels=made, bars=bars)
            numbers = torch.tensor([names.index(subset.class_names[label]) for label in subset.labels])
            latents = encode_images(model, torch.from_numpy(pixels)).cpu()
            rows, low_rank = _learn(
                model, latents, numbers, names, rank=rank, steps=steps, seed=seed,
                checkpoint=unfinished / "checkpoint.safetensors", bars=bars,
            )  # fmt: skip
            (unfinished / FINISHED).mkdir(exist_ok=True)
            learned = dict(zip(names, rows, strict=True))
            write_adapter(unfinished / FINISHED, str(prior), sha256, learned, low_rank, rank)
    return load_prior(folder, device=device, dtype=computed_in)


def _learn(
    model: ClassEmbeddingPrior,
    latents: Tensor,
    numbers: Tensor,
    names: Sequence[str],
    *,
    rank: int,
    steps: int,
    seed: int,
    checkpoint: Path,
    bars: Bars,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Learn from latents of new classes, with the number of the class in ``names`` for each.

    Returns:
        Rows (classes, tables, D), and the low-rank changes by name.
    """
    known = torch.tensor(sorted(set(model.labels_of(names).values())))
    null = torch.tensor([null_label("")])
    start = model.condition(null if model.has_null else known).mean(0)
    moved = torch.zeros(len(names), *start.shape, device=start.device, requires_grad=True)
    samples = _samples(model, known, seed, bars) if rank else latents[:0]
    low_rank = add_low_rank(model.denoiser, rank, rng.derive_seed(seed, "low rank")) if rank else {}
    unused = torch.zeros(BATCH, dtype=torch.int64)  # labels; the condition is used in their place

    def new_class_loss(draw: torch.Generator) -> Tensor:
        batch = torch.randint(len(latents), (BATCH,), generator=draw)
        noise, timesteps = draw_noised(BATCH, model, draw)
        condition = start + ROWS * moved[numbers[batch].to(moved.device)]
        condition = with_nulls(condition, draw) if rank else condition
        return denoising_loss(model, latents[batch], noise, timesteps, unused, condition=condition).mean()

    def preservation_loss(draw: torch.Generator) -> Tensor:
        batch = torch.randint(len(samples), (SAMPLE_BATCH,), generator=draw)
        noise, timesteps = draw_noised(SAMPLE_BATCH, model, draw)
        condition = with_nulls(model.condition(known[batch % len(known)]), draw)
        noised, timesteps = noised_latents(model, samples[batch], noise, timesteps), timesteps.to(model.device)

        def estimate() -> Tensor:
            return model.denoise(noised, timesteps, unused[:SAMPLE_BATCH], through=True, condition=condition).eps

        with torch.no_grad(), without_low_rank(model.denoiser):
            before = estimate()
        return (estimate() - before).square().mean()

    def with_nulls(condition: Tensor, draw: torch.Generator) -> Tensor:
        """Replace a tenth of the rows by those of the null condition, if there is one."""
        dropped = torch.rand(len(condition), generator=draw) < NULL_SHARE
        if not model.has_null:
            return condition
        return torch.where(dropped.to(condition.device)[:, None, None], start, condition)

    def loss(draw: torch.Generator) -> Tensor:
        return SAMPLE_WEIGHT * preservation_loss(draw) + new_class_loss(draw) if rank else new_class_loss(draw)

    optimise(
        {"rows": moved, **low_rank}, loss, steps=steps, peak_lr=PEAK_LR, warm_up=WARM_UP, seed=(seed, "adapt"),
        checkpoint=checkpoint, title="adapting", bars=bars,
    )  # fmt: skip
    return start + ROWS * moved.detach(), low_rank


@torch.no_grad()
def _samples(model: Prior, known: Tensor, seed: int, bars: Bars = NO_BARS) -> Tensor:
    """Return latents of the prior's own samples, the known classes in turn, without guidance."""
    settings = SamplingSettings.choose(model.recommended, guidance_scale=1.0)
    batches = []
    kept = "nothing of the samples of known classes is kept; the same command makes them again"
    with bars.stage("samples of known classes", total=SAMPLES, unit=" images", kept=kept) as bar:
        for numbers in torch.arange(SAMPLES).split(BATCH):
            generators = [rng.generator(seed, "kept", number) for number in numbers.tolist()]
            batches.append(sample(model, known[numbers % len(known)], generators, settings=settings).cpu())
            bar.update(len(numbers))
    return torch.cat(batches)
