"""coda: pull each slot towards a real image from a dense part of its class, a different image for each slot.

Zhou, Liu and Wang, "CoDA: From Text-to-Image Diffusion Models to Training-Free Dataset Distillation", ICLR 2026,
https://arxiv.org/abs/2512.03844. A general text-to-image prior has not seen the data set, so CoDA first finds out where
each class is dense and then guides the prior there.

Distribution discovery: the latents of all real images of a class are standardised, embedded by UMAP and clustered by
HDBSCAN into as many clusters as images are wanted. Each cluster is represented by a real latent s_j, the one with the
largest membership. :mod:`dap.selection.density` lists the steps in order and says what happens when there are too many
or too few clusters. The representatives of a class depend only on the run's seed and on the class.

Distribution alignment: slot j is guided by

    Δε = −√(ᾱ_t / (1 − ᾱ_t)) · γ · σ_t · (s_j − x̂_0),        ε̂ = ε_∅ + w · (ε_c + Δε − ε_∅),

where γ is the ``scale``, w the run's scale of classifier-free guidance, and x̂_0 the estimate that belongs to ε_c alone,
before classifier-free guidance. In the released code σ_t is the sampler's noise level in the form of Karras et al.,
√((1 − ᾱ_t) / ᾱ_t). It cancels the square root in front of it, except that t is rounded to a whole number, which changes
the product by at most 0.3 % in the first 19 steps. What is left is

    ε̂ = ε_∅ + w · (ε_c − ε_∅) − w · γ · (s_j − x̂_0).

So the guidance adds w · γ · √((1 − ᾱ_t) / ᾱ_t) · (s_j − x̂_0) to the sampler's own estimate of x_0.

Differences from the released code:

- Its UMAP has random state 42 and the k-means of step 5 random state 0, whatever the seed; here both follow the seed.
- Its clusters stay in the order in which they are found, unless there are too many; here the largest comes first.
- It encodes images that are stretched to a square of 1024 pixels; here images are cropped to the prior's own size.
- It clusters with the package hdbscan; here scikit-learn does. Its minimal spanning tree may differ where distances are
  equal.
- It seeds images by the number of the GPU that makes them; here each slot has its own generator.
- Its images of 1,024 pixels are resized to 256 before training; here the evaluation does that.

The sampler is DPM-Solver++ with Karras' steps, 25 of them, and w is 5: ``sampling="coda-sdxl"``. The prompt is the
class's first name: ``prior_options={"template": "{}"}``. The refiner is loaded, but does no step.

Published constants: γ = 0.05 and guidance in 22 of 25 steps (``stop`` 0.88), from the one script that was released.
``n_neighbors`` and ``min_cluster_size`` were searched for each data set; the script has 85 and 55, for ImageNet-A and
10 images a class. The γ for the other data sets is not known. As published, the script evaluates the representatives,
not the generated images.

The defaults, which are also the preset "fashion", had the best accuracy in a grid on held-out images
(``docs/guidance.md``); the options of the discovery are those of the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dap.config import check_number, check_whole
from dap.errors import OptionError
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.modes import Clusters, Modes, find_modes, modes_bytes
from dap.priors import Demand
from dap.rng import derive_seed
from dap.sampling import DeltaTerm, StepState, Window
from dap.selection.density import density_clusters, load_libraries

__all__ = ["CoDA", "Representative", "RepresentativeTerm"]


@TERMS.register("representative")
@dataclass(frozen=True)
class Representative(Guide[Modes]):
    """The options of a term that pulls each slot to its representative.

    Attributes:
        scale: γ, which is multiplied by the run's scale of classifier-free guidance; 0 switches guidance off.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.
        n_components: Columns of UMAP's embedding; at most two fewer than the class has images.
        n_neighbors: Neighbours of an image in UMAP's graph, from 2; at most one fewer than the class has images.
        min_cluster_size: Smallest number of images in a cluster, from 2. A class with fewer than twice as many images
            has no clusters; its representatives are then the images nearest to the centres of k-means.
        min_samples: Number k, from 1: the distance to the k-th neighbour measures how dense a class is at an image.

    Example:
        >>> Representative(scale=0.05, stop=0.88).min_samples
        3
    """

    name: ClassVar[str] = "representative"
    version: ClassVar[int] = 2

    scale: float = 0.1
    start: float = 0.0
    stop: float = 0.5
    n_components: int = 50
    n_neighbors: int = 85
    min_cluster_size: int = 55
    min_samples: int = 3

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        for option, least in (("n_components", 1), ("n_neighbors", 2), ("min_cluster_size", 2), ("min_samples", 1)):
            check_whole(option, getattr(self, option), least)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """Return the representatives of each class as modes; the largest cluster comes first."""
        load_libraries()  # a missing library is reported before anything is encoded
        options = [self.n_components, self.n_neighbors, self.min_cluster_size, self.min_samples]
        versions = [version(name) for name in ("umap-learn", "scikit-learn", "numba", "scipy", "numpy")]
        return find_modes(context, self._discover, ["UMAP and HDBSCAN", options, versions])

    def _discover(self, rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
        clusters = density_clusters(
            rows, count, n_components=self.n_components, n_neighbors=self.n_neighbors,
            min_cluster_size=self.min_cluster_size, min_samples=self.min_samples, seed=derive_seed(seed, "coda"),
        )  # fmt: skip
        return Clusters(rows[clusters.indices].astype(np.float64), clusters.labels)

    def term(self, context: Context, unit: Unit, artefact: Modes) -> RepresentativeTerm:
        """Return the term that pulls each slot to its representative."""
        scale = self.scale * context.settings.guidance_scale
        window = Window(self.start, self.stop)
        return RepresentativeTerm(representatives=artefact.of(context, unit), window=window, scale=scale)

    def demand(self, context: Context) -> Demand:
        """Return that noise estimates are all that is needed."""
        return Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the modes."""
        return modes_bytes(context)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id of each representative, by class."""
        return {"sizes": artefact.sizes, "representatives": artefact.nearest}


@dataclass(frozen=True, kw_only=True)
class RepresentativeTerm(DeltaTerm):
    """The change −(s − x̂_0) of ε, with x̂_0 that of the conditional estimate; the scale is w · γ.

    Attributes:
        representatives: s of each slot, (B, C, h, w).
    """

    representatives: Tensor

    def delta(self, state: StepState) -> Tensor:
        """Return the change, (B, C, h, w)."""
        if state.x0_conditional is None:
            raise OptionError(
                "method 'coda' needs the noise estimate before classifier-free guidance, which this prior does not "
                "return: set Prediction.conditional in its denoise(), or guidance_scale=1"
            )
        return state.x0_conditional - self.representatives


@dataclass(frozen=True)
class CoDA(Representative, SingleGuide[Modes]):
    """Guidance by real images from the dense parts of a class; options as in :class:`Representative`.

    The representatives depend on the number of images per class, so a finished run cannot be extended to more images.
    It needs umap-learn and scikit-learn: ``pip install 'dap-distill[coda]'``.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="coda", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "coda"
    paper: ClassVar[str] = "Zhou et al., ICLR 2026, arXiv 2512.03844"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Couples] = "class"
    sampled_by: ClassVar[Mapping[str, str]] = {"paper": "coda-sdxl"}
    presets: ClassVar[Presets] = {
        "paper": {
            "scale": 0.05, "start": 0.0, "stop": 0.88,
            "n_components": 50, "n_neighbors": 85, "min_cluster_size": 55, "min_samples": 3,
        },
        "fashion": {"scale": 0.1, "start": 0.0, "stop": 0.5},
    }  # fmt: skip

    def weights(self, context: Context, artefact: Modes) -> Mapping[str, Sequence[float]]:
        """Return the number of real images in the cluster of each slot."""
        return artefact.sizes
