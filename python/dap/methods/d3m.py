"""d3m: one learned word for each class; the images are what the prior makes of it.

"One Category One Prompt: Dataset Distillation using Diffusion Models" (D3M), 2024, https://arxiv.org/abs/2403.07142.
Textual inversion (Gal et al., "An Image is Worth One Word", ICLR 2023, https://arxiv.org/abs/2208.01618) learns for
each class c a word v_c, some vectors of the text encoder's token embedding, with everything else frozen:

    v_c = argmin_v E_{z, ε, t} ‖ε − ε_θ(z_t, t, τ("a photo of a {v}"))‖²,     z the latents of the class's real images,

and the images are ordinary samples under the prompt with v_c in it. So the distilled dataset *is* the words: they are
written to ``embeddings/<class>.safetensors`` beside the images, in the form that diffusers' ``load_textual_inversion``
reads, and ``prior_options={"concepts": "distilled/embeddings"}`` makes any number of images of them, by any method.

Of D3M no more than the abstract could be read: its constants are not known. Those here are textual inversion's own:
5,000 steps of 8 images at a learning rate of 0.005 times the 8 images, one vector that begins at the class's name. (The
released code of textual inversion has one vector, the same batch and rate, 6,100 steps.) Deviations: the learning rate
warms up and falls linearly over the second half; gradients are clipped to norm 1; one template instead of 27, no flips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dap.errors import OptionError
from dap.features import real_latents
from dap.methods.base import Context, Unit
from dap.nets import optimise
from dap.priors import TextPrior
from dap.priors.learned_words import concept_file
from dap.sampling import denoising_loss, draw_noised, sample
from dap.storage.cache import CONCEPTS, CacheEntry

__all__ = ["D3M"]

RULE = 1  # raised whenever dap learns a word to other bits: it then finds none that an older one made
FOLDER = "embeddings"


@dataclass(frozen=True)
class D3M:
    """A learned word for each class, and samples of it.

    Attributes:
        vectors: Of a word, at least 1.
        steps: Of learning each word, at least 1.
        batch: Real images a step.
        learning_rate: AdamW's at its peak.

    Example:
        >>> import dap
        >>> words = dap.distill(  # doctest: +SKIP
        ...     "path/to/train", prior="stable-diffusion-v1-5/stable-diffusion-v1-5", method="d3m", out="words"
        ... )
        >>> more = dap.distill(  # doctest: +SKIP
        ...     "path/to/train", prior="stable-diffusion-v1-5/stable-diffusion-v1-5", method="dit", ipc=50, out="more",
        ...     prior_options={"concepts": "words/embeddings"},
        ... )
    """

    name: ClassVar[str] = "d3m"
    paper: ClassVar[str] = "arXiv 2403.07142"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "training", "text")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {"steps": 20, "batch": 4}}

    vectors: int = 1
    steps: int = 5000
    batch: int = 8
    learning_rate: float = 0.04

    def __post_init__(self) -> None:
        for option in ("vectors", "steps", "batch"):
            if type(value := getattr(self, option)) is not int or value < 1:
                raise OptionError(f"{option}: expected a whole number of at least 1, got {value!r}")
        if not 0 < self.learning_rate < float("inf"):
            raise OptionError(f"learning_rate: expected more than 0, got {self.learning_rate}")

    def prepare(self, context: Context) -> TextPrior:
        """The prior with the words that it was taught; each is in the cache, finished or as far as it came."""
        prior = context.require_prior()
        if not isinstance(prior, TextPrior):
            raise OptionError(
                f"method 'd3m' learns words, and {prior.name} reads none: use a text prior such as Stable Diffusion, "
                "or dap prior adapt for one with class labels"
            )
        real = real_latents(context.source, context.classes, prior, index=context.index)
        taught = prior.with_concepts({
            entry.name: self._learn(context, prior, entry.name, real.of_class(entry.name), real.ids[entry.name])
            for entry in context.classes
        })  # fmt: skip
        return taught.for_classes([entry.name for entry in context.classes])

    def make(self, context: Context, unit: Unit, artefact: TextPrior) -> Tensor:
        """Latents of the unit's slots."""
        names = [context.classes[slot.class_index].name for slot in unit.slots]
        labels = artefact.labels_of(sorted(set(names)))
        return sample(
            artefact, torch.tensor([labels[name] for name in names]), context.generators(unit),
            settings=context.settings, callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: TextPrior) -> dict[str, Any]:
        """Hash of each word."""
        return {"concepts": artefact.describe()["concepts"]}

    def files(self, context: Context, artefact: TextPrior) -> dict[str, bytes]:
        """The words as diffusers saves them, by path."""
        files = [concept_file(name, concept) for name, concept in artefact.concepts.items()]
        return {f"{FOLDER}/{name}": data for name, data in files}

    def _learn(self, context: Context, prior: TextPrior, name: str, latents: Tensor, ids: Any) -> Tensor:
        """The word of a class, float32 (vectors, D)."""
        described = {key: value for key, value in prior.describe().items() if key not in ("name", "prompts")}
        content = [
            RULE, context.source.identity(), name, list(ids), described, asdict(self), context.seed, version("torch"),
            prior.device.type, str(prior.dtype),
        ]  # fmt: skip
        entry = CacheEntry.of(CONCEPTS, content, ".safetensors")
        entry.make_parent()
        word = prior.concept(name, self.vectors).requires_grad_()
        labels = torch.zeros(self.batch, dtype=torch.int64)  # the states come before them

        def loss(draw: torch.Generator) -> Tensor:
            chosen = torch.randint(len(latents), (self.batch,), generator=draw)
            noise, timesteps = draw_noised(self.batch, prior, draw)
            states = prior.concept_states(word).expand(self.batch, -1, -1)
            return denoising_loss(prior, latents[chosen], noise, timesteps, labels, condition=states).mean()

        optimise(
            {"word": word}, loss, steps=self.steps, peak_lr=self.learning_rate, seed=(context.seed, "d3m", name),
            checkpoint=entry.path, title=f"word of {name}",
        )  # fmt: skip
        return word.detach()
