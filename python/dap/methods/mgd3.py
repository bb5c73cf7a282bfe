"""mgd3: pull each slot towards a mode of its class, a different mode for each slot, in the first half of the steps.

Chan-Santiago et al., "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML 2025,
https://arxiv.org/abs/2505.18963. The modes m of a class are the centres of k-means of the latents of all its real
images, with as many clusters as images are wanted. With x̂_0 the estimate at step t, g = m − x̂_0 and λ the ``scale``,

    at="sample"   x_{t−1} = step(x_t, ε) + λ · σ_t · g       (the released code; σ_t = the ancestral step's noise)
    at="ddim"     x_{t−1} = step(x_t, ε) + λ · √ᾱ_t · g      (the released code of Stable Diffusion, for DDIM)
    at="eps"      ε̂ = ε − λ · √(1 − ᾱ_t) · g                 (the paper, for DDIM)
    at="x0"       x̂_0 = x̂_0 + λ · σ_t · g                    (dap's own, the default)

The preset "paper" is the released code with the options of its scripts: λ = 0.1, and guidance while the step's number,
which counts down from 49, is above 25. These are the first 24 of 50 steps, a ``stop`` of 0.48. The default, "x0" over
half of the steps with λ = 1, had the best accuracy in a grid on held-out images (``docs/guidance.md``).

The preset "sd" is the released form for Stable Diffusion: σ_t is that of the posterior q(x_{t−1} | x_t, x_0), and the
guidance acts while t > 500, in 25 of 50 steps. The λ of its scripts is not known; the preset has that of DiT. The other
settings are options of the run and of the prior, with which the preset is that form: ``sampling="mgd3-sd"`` (50 DDPM
steps, classifier-free guidance of 8) and ``prior_options={"template": "{}"}`` (the class's name is the prompt). Its
images of 512 pixels are resized to 256 before training; here the evaluation does that.

Differences from the released code:

- It clusters latents of images that it flips at random; here images are not flipped.
- It starts k-means from random state 0 whatever the seed; here the start follows the run's seed. Both use one start.
- The order of its clusters is arbitrary; here the largest comes first, so that the first few images represent the most.
- It samples one image at a time and draws noise for both halves of classifier-free guidance from one global stream;
  here slots share a batch, and each has its own generator.
- It guides three of the four latent channels by the classifier-free scale and learns the variance, so that σ_t differs
  between the values of a latent; here that is ``sampling="dit-repo"``.
- Its DDIM takes the same guided DDPM step; here "sample" adds to the step of the run's scheduler.
- For Stable Diffusion its modes are means of samples of the VAE's posterior; here of the posterior's means.
- It finds a class's label by its place in a list; here the class map does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from dap.config import check_choice, check_number
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.modes import Modes, ModeTerm, find_modes, largest_first, modes_bytes
from dap.priors import Demand
from dap.sampling import Place, Window

__all__ = ["MGD3", "Mode"]


@TERMS.register("mode")
@dataclass(frozen=True)
class Mode(Guide[Modes]):
    """The options of a term that pulls each slot to its mode.

    Attributes:
        scale: λ, at least 0; 0 switches guidance off.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.
        at: "x0", "sample", "ddim" or "eps"; see :mod:`dap.methods.mgd3`.

    Example:
        >>> Mode(at="sample", stop=0.48).scale
        1.0
    """

    name: ClassVar[str] = "mode"
    version: ClassVar[int] = 2

    scale: float = 1.0
    start: float = 0.0
    stop: float = 0.5
    at: Literal["x0", "sample", "ddim", "eps"] = "x0"

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        check_choice("at", self.at, ("x0", "sample", "ddim", "eps"))
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """Return the modes of each class, by k-means; the largest cluster comes first."""
        return find_modes(context, largest_first, "k-means, largest first")

    def term(self, context: Context, unit: Unit, artefact: Modes) -> ModeTerm:
        """Return the term that pulls each slot to its mode."""
        place: Place = "sample" if self.at == "ddim" else self.at
        return ModeTerm(
            modes=artefact.of(context, unit), window=Window(self.start, self.stop), scale=self.scale, at=place,
            by_signal=self.at == "ddim",
        )  # fmt: skip

    def demand(self, context: Context) -> Demand:
        """Return that noise estimates are all that is needed."""
        return Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the modes."""
        return modes_bytes(context)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id nearest to each mode, by class."""
        return artefact.record()


@dataclass(frozen=True)
class MGD3(Mode, SingleGuide[Modes]):
    """Mode guidance; options as in :class:`Mode`.

    The modes depend on the number of images per class, so a finished run cannot be extended to more images.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="mgd3", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "mgd3"
    paper: ClassVar[str] = "Chan-Santiago et al., ICML 2025, arXiv 2505.18963"
    year: ClassVar[int | None] = 2025
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {
        "paper": {"scale": 0.1, "start": 0.0, "stop": 0.48, "at": "sample"},
        "sd": {"scale": 0.1, "start": 0.0, "stop": 0.5, "at": "sample"},
        "fashion": {"scale": 1.0, "start": 0.0, "stop": 0.5, "at": "x0"},
    }
    sampled_by: ClassVar[Mapping[str, str]] = {"paper": "dit-repo", "sd": "mgd3-sd"}

    def weights(self, context: Context, artefact: Modes) -> Mapping[str, Sequence[float]]:
        """Return the number of real images in the cluster of each slot."""
        return artefact.sizes
