"""The Gaussian of each class at a noise level: mean and deviation of its real latents after DDIM's inversion.

d3hr draws from them; cgs takes those without noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from dap.errors import DivergedError, OptionError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.priors.noise_levels import level
from dap.sampling.schedule import ddim_of
from dap.selection import permutation
from dap.storage.cache import MODES, CacheEntry
from dap.storage.shared_tensors import make_tensors

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["ClassGaussian", "class_gaussians", "gaussians_bytes"]

RULE = 1  # raise it with every change of the computed bits, so that entries of older versions are not read


@dataclass(frozen=True)
class ClassGaussian:
    """The Gaussian of a class.

    Attributes:
        mean: µ, float32 (D,).
        deviation: s, float32 (D,).
    """

    mean: Tensor
    deviation: Tensor


def class_gaussians(context: Context, inverted: int, references: int | None) -> dict[str, ClassGaussian]:
    """Invert the latents of real images and return the Gaussian of each class, or find them in the cache.

    A search that was stopped is continued after its last class.

    Args:
        context: The run; if it has an index, the latents are read from there.
        inverted: k, the steps of the run's schedule that the latents are taken back; 0: the latents as they are.
        references: Real images of each class, at least 2; None: all.

    Raises:
        OptionError: A class has fewer than two images.
        DivergedError: A latent is no longer finite.
    """
    prior, settings = context.prior, context.settings
    real = real_latents(
        context.source, context.classes, prior, index=context.index, bars=context.bars, dtype=context.latent_dtype
    )  # fmt: skip
    for name, ids in real.ids.items():
        if len(ids) < 2:
            raise OptionError(f"class {name!r} has {len(ids)} image, a Gaussian needs two: add images")
    size, names = math.prod(prior.latent_shape), list(real.ids)
    rule = [
        RULE, "gaussians", inverted, settings.num_inference_steps, settings.guidance_scale, references,
        [entry.label for entry in context.classes], prior.guided_channels,
    ]  # fmt: skip
    if inverted and settings.timestep_spacing is not None:
        rule.append(settings.timestep_spacing)
    entry = CacheEntry.of(MODES, [rule, real.identity, context.seed], ".safetensors")

    def gaussian_of(number: int) -> npt.NDArray[np.float32]:
        points = torch.cat(list(_inverted(context, real, number, inverted, references))).flatten(1).double()
        values: npt.NDArray[np.float32] = torch.cat([points.mean(0), points.std(0)]).float().numpy()
        return values

    if not entry.is_whole():
        real.prepare()
        shapes: dict[str, tuple[int, ...]] = {}
        for number in range(len(names)):
            shapes |= {f"mean {number}": (size,), f"deviation {number}": (size,)}
        kept = "the classes that are finished are kept; the same command continues after them"
        with closing(make_tensors(entry, shapes, [2 * size] * len(names), gaussian_of)) as written:
            before = next(written, None)
            if before is not None:
                title = "inversion" if inverted else "class means"
                with context.bars.stage(title, total=len(names), done=before, unit="class", kept=kept) as bar:
                    for _ in written:
                        bar.update()
    with safe_open(entry.path, framework="pt") as file:
        return {
            name: ClassGaussian(file.get_tensor(f"mean {number}"), file.get_tensor(f"deviation {number}"))
            for number, name in enumerate(names)
        }


def gaussians_bytes(context: Context) -> int:
    """Return how many bytes the Gaussians take in the cache, with the latents of all real images."""
    gaussians = 8 * math.prod(context.prior.latent_shape) * len(context.classes)
    return gaussians + latents_bytes(context.source, context.prior, index=context.index)


@torch.no_grad()
def _inverted(
    context: Context, real: RealLatents, number: int, inverted: int, references: int | None
) -> Iterator[Tensor]:
    """Yield the latents of a class at the noise level, (b, C, h, w) on the CPU."""
    prior, entry, last = context.prior, context.classes[number], context.settings.num_inference_steps - 1
    scheduler, latents = ddim_of(prior, context.settings), real.of_class(entry.name)
    if references is not None:
        latents = latents[permutation(len(latents), context.seed, entry.name)[:references]]
    for part in latents.split(prior.batches.features):
        x, labels = part.to(prior.device), torch.full((len(part),), entry.label, device=prior.device)
        for i in range(1, inverted + 1):  # steps are counted from the least noise
            before, now = level(scheduler, last + 1 - i), level(scheduler, last - i)
            t = scheduler.timesteps[last - i]
            eps = prior.denoise(x, t, labels, guidance_scale=context.settings.guidance_scale).eps
            x = now.alpha * (x - before.sigma * eps) / before.alpha + now.sigma * eps
        if not torch.isfinite(x).all():
            raise DivergedError(f"class {entry.name!r}: inverting left the finite numbers: lower guidance_scale")
        yield x.cpu()
