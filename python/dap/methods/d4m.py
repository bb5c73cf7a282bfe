"""d4m: start from the cluster centres of a class in latent space, add noise, and denoise.

Su et al., "D^4M: Dataset Distillation via Disentangled Diffusion Model", CVPR 2024, https://arxiv.org/abs/2407.15138.
The prototypes z of a class are the centres of k-means of the latents of all its real images, with as many clusters as
images are wanted. With n steps and a strength s, slot i skips the first n − ⌊s n⌋ steps and starts at the next, from

    x_t = α_t z_i + σ_t ε.

From there it is denoised like any sample. This is diffusers' image-to-image with z_i as the image. The released scripts
have s = 0.7, n = 50 (so 35 steps are taken), a classifier-free scale of 8, the class's name as the whole prompt, and
the negative prompt "cartoon, anime, painting". The strength is the default here; the others are options of the run and
of the prior (``StableDiffusionPrior(..., template="{}", negative_prompt="cartoon, anime, painting")``).

With ``stream`` the prototypes are found as in the released code: scikit-learn's ``MiniBatchKMeans`` sees the latents of
a class once, in batches of ``stream`` times as many as images are wanted, and the last, incomplete batch is left out.
The released scripts have 1 (``km_expand``), so that the first latents that come are the first centres, and prototypes
are weaker than those of k-means of all latents, which is the default. The preset "streamed" has it.

Differences from the released code:

- Its sampler is the pipeline's PNDM, which takes one timestep twice, so that 36 evaluations make the 35 steps. So it
  does here; other schedulers of a run take 35.
- It clusters samples of the VAE's posterior of images that are stretched to a square; here it clusters the posterior's
  means of centre crops.
- It has no seeds but for k-means, whose random state is 0; here the order of the latents, the start of k-means and the
  noise of each slot follow the run's seed.
- It fits the incomplete batch of the class that comes last, and of no other; here of a class without a complete one.
- The order of its prototypes is arbitrary; here the largest cluster comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dap.config import check_number, check_whole
from dap.errors import OptionError
from dap.kernels import nearest
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.modes import Clusters, Modes, find_modes, largest_first, modes_bytes
from dap.priors import Demand

__all__ = ["D4M"]


@dataclass(frozen=True)
class D4M(Method[Modes]):
    """Image-to-image from the prototypes of each class.

    Attributes:
        strength: Share of the steps that are taken, above 0 and at most 1. With 1 a slot starts at nearly pure noise;
            with a small value the images are close to the decoded prototypes.
        stream: How many times as many latents as images are wanted make a batch of streamed k-means, at least 1; 0:
            k-means of all latents of the class. It needs scikit-learn: ``pip install 'dap-distill[coda]'``.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="d4m", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "d4m"
    paper: ClassVar[str] = "Su et al., CVPR 2024, arXiv 2407.15138"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {"paper": {"strength": 0.7}, "streamed": {"strength": 0.7, "stream": 1}}

    strength: float = 0.7
    stream: int = 0

    def __post_init__(self) -> None:
        check_number("strength", self.strength, above=0, most=1)
        check_whole("stream", self.stream, 0)

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps that are taken from the noised prototype."""
        return context.num_steps(self.strength)

    def prepare(self, context: Context) -> Modes:
        """Return the prototypes of each class; the largest cluster comes first."""
        if not self.stream:
            return find_modes(context, largest_first, "k-means, largest first")
        rule = ["streamed k-means, largest first", self.stream, load_mini_batch_k_means()[1]]
        return find_modes(context, partial(streamed_k_means, expand=self.stream), rule)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates are all that is needed."""
        return (Demand(),)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the modes."""
        return modes_bytes(context)

    def make(self, context: Context, unit: Unit, artefact: Modes) -> Tensor:
        """Return latents of the unit's slots."""
        return context.sample(unit, init=artefact.of(context, unit), strength=self.strength)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id nearest to each prototype, by class."""
        return artefact.record()

    def weights(self, context: Context, artefact: Modes) -> Mapping[str, Sequence[float]]:
        """Return the number of real images in the cluster of each slot."""
        return artefact.sizes


def load_mini_batch_k_means() -> tuple[Any, str]:
    """Import scikit-learn's class, which takes seconds; return it with the library's version.

    Raises:
        OptionError: scikit-learn is not installed.
    """
    try:
        from sklearn import __version__
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise OptionError(f"stream: needs scikit-learn ({error}): pip install 'dap-distill[coda]'") from error
    return MiniBatchKMeans, __version__


def streamed_k_means(rows: npt.NDArray[np.float32], count: int, seed: int, *, expand: int) -> Clusters:
    """Cluster latents (N, D) in one pass over batches of ``expand * count``; the largest cluster comes first."""
    size = expand * count
    order = np.random.default_rng(seed).permutation(len(rows))
    model = load_mini_batch_k_means()[0](count, batch_size=size, random_state=seed % 2**32, n_init="auto")
    for start in range(0, max(len(rows) - size, 0) + 1, size):
        model.partial_fit(rows[order[start : start + size]])
    centers = np.asarray(model.cluster_centers_)
    labels = np.asarray(nearest(rows, centers)[1])[:, 0].astype(np.int64)
    largest = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return Clusters(centers.astype(np.float64), labels).in_order(largest)
