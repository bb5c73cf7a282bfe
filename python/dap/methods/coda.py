"""coda: pull each slot towards a real image from where its class is dense, one image a slot.

Zhou, Liu and Wang, "CoDA: From Text-to-Image Diffusion Models to Training-Free Dataset Distillation", ICLR 2026,
https://arxiv.org/abs/2512.03844. A prior that knows the world at large need not know what a data set has in mind.

Distribution discovery: the latents of all real images of a class are standardised, embedded by UMAP and clustered by
HDBSCAN, and each of as many clusters as images are wanted is represented by a real latent s_j, the one of largest
membership. :mod:`dap.selection.density` has the order of the steps, and what happens where the clusters are too many
or too few. Distribution alignment: slot j is guided by

    Δε = −√(ᾱ_t / (1 − ᾱ_t)) · γ · σ_t · (s_j − x̂_0),        ε̂ = ε_∅ + w · (ε_c + Δε − ε_∅),

with γ the ``scale`` and w the run's scale of classifier-free guidance. In the released code σ_t is the sampler's, in
the form of Karras et al., √((1 − ᾱ_t) / ᾱ_t): it cancels the root in front of it (but for the rounding of t to a whole
number: within 0.3 % in its first 19 steps), and what is left is

    ε̂ = ε − w · γ · (s_j − x̂_0),    which moves x̂_0 by w · γ · √((1 − ᾱ_t) / ᾱ_t) · (s_j − x̂_0).

That is past s_j where the noise is above 1 / (w γ) times the signal: 4 at the published w = 5. The representatives of a
class depend on the run's seed and the class alone, not on which other classes there are.

What differs from the released code:

- Its x̂_0 is that of the conditional estimate ε_c alone; here it is that of the estimate after classifier-free guidance,
  the one that the sampler uses. At w = 1 they are the same; there the released code does not guide at all.
- Its UMAP has random state 42, and the k-means of step 5 random state 0, whatever the seed.
- Its clusters come as they were found, unless they were too many; here the largest is the first.
- It encodes images that are stretched to a square of 1024; here the prior's own size, of centre crops.
- It clusters by the package hdbscan, and here scikit-learn does, which takes a minimal spanning tree that may differ
  where distances are equal.
- It seeds images by the number of the GPU that makes them; here each slot has its own generator.
- Its sampler is DPM-Solver++ with Karras' steps, 25 of them, w is 5 and the class's first name is the prompt: options
  of the run and of the prior here.

Published: γ = 0.05, and 22 of 25 steps (``stop`` 0.88), in the one script that was released. ``n_neighbors`` and
``min_cluster_size`` were searched for each data set: the script has 85 and 55, for ImageNet-A and 10 images a class.
What γ was for the other data sets is not known. The script, as it is, evaluates the representatives, not the images.

The defaults, also the preset "fashion", are the best of a grid on held-out images with the built-in prior, at w = 1.5
(points of accuracy relative to no guidance, ``examples/compare_methods.py coda``, seeds 1000 to 1003, n = 4): γ = 0.03
/ 0.1 / 0.3 / 1 gave +0.29 / +1.80 / +2.11 / +1.72 over half of the steps, γ = 0.03 / 0.1 gave +0.26 / +1.11 over 0.88
of them. None of the 95 % intervals leaves out zero. The options of the discovery are those of the script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.methods.base import Context, Unit
from dap.methods.guided import TERMS, Guide, SingleGuide
from dap.methods.mgd3 import Clusters, Modes, ModeTerm, find_modes
from dap.rng import derive_seed
from dap.sampling import Window
from dap.selection.density import density_clusters, load_libraries

__all__ = ["CoDA", "Representative"]


@TERMS.register("representative")
@dataclass(frozen=True)
class Representative(Guide):
    """The pull to the representatives as a term.

    Attributes:
        scale: γ, which the run's scale of classifier-free guidance multiplies; 0 leaves the prior's own samples.
        start: Share of the steps after which guidance starts.
        stop: Share of the steps after which it stops.
        n_components: Columns of UMAP's embedding; at most two fewer than the class has images.
        n_neighbors: Neighbours of an image in UMAP's graph, from 2; at most one fewer than the class has images.
        min_cluster_size: Images of a cluster, from 2. A class of fewer than twice as many has no clusters: all of it is
            noise, and the representatives are the images nearest to the centres of k-means.
        min_samples: Which neighbour's distance says how dense it is around an image, from 1.

    Example:
        >>> Representative(scale=0.05, stop=0.88).min_samples
        3
    """

    name: ClassVar[str] = "representative"

    scale: float = 0.3
    start: float = 0.0
    stop: float = 0.5
    n_components: int = 50
    n_neighbors: int = 85
    min_cluster_size: int = 55
    min_samples: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale: expected 0 or more, got {self.scale}")
        for option, least in (("n_components", 1), ("n_neighbors", 2), ("min_cluster_size", 2), ("min_samples", 1)):
            value = getattr(self, option)
            if type(value) is not int or value < least:
                raise OptionError(f"{option}: expected a whole number of at least {least}, got {value!r}")
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """The representatives of each class, as modes that are real latents; the largest cluster is the first."""
        load_libraries()  # what is missing is said before anything is encoded
        return find_modes(context, self._discover)

    def _discover(self, rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
        found = density_clusters(
            rows, count, n_components=self.n_components, n_neighbors=self.n_neighbors,
            min_cluster_size=self.min_cluster_size, min_samples=self.min_samples, seed=derive_seed(seed, "coda"),
        )  # fmt: skip
        return Clusters(rows[found.indices].astype(np.float64), found.labels)

    def term(self, context: Context, unit: Unit, artefact: Modes) -> ModeTerm:
        """The pull of each slot to its representative."""
        scale = self.scale * context.settings.guidance_scale
        return ModeTerm(artefact.of(context, unit), Window(self.start, self.stop), scale, "eps", factor=-1.0)

    def record(self, context: Context, artefact: Modes) -> dict[str, Any]:
        """Sizes of the clusters and the source id of each representative, by class."""
        return {"sizes": artefact.sizes, "representatives": artefact.nearest}


@dataclass(frozen=True)
class CoDA(SingleGuide, Representative):
    """Guidance by dense real images; options as in :class:`Representative`.

    The representatives depend on how many images are wanted, so the images of a class belong together, and a run cannot
    grow. It needs umap-learn and scikit-learn: ``pip install 'dap-distill[coda]'``.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="coda", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "coda"
    paper: ClassVar[str] = "Zhou et al., ICLR 2026, arXiv 2512.03844"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Literal["slot", "class"]] = "class"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "scale": 0.05, "start": 0.0, "stop": 0.88,
            "n_components": 50, "n_neighbors": 85, "min_cluster_size": 55, "min_samples": 3,
        },
        "fashion": {"scale": 0.3, "start": 0.0, "stop": 0.5},
    }  # fmt: skip
