"""d3m: learn one word for each class and sample the prior under it.

"One Category One Prompt: Dataset Distillation using Diffusion Models" (D3M), 2024, https://arxiv.org/abs/2403.07142.
Textual inversion (Gal et al., "An Image is Worth One Word", ICLR 2023, https://arxiv.org/abs/2208.01618) learns a word
v_c for each class c, with everything else frozen. A word is one or more vectors of the text encoder's token embedding:

    v_c = argmin_v E_{z, ε, t} ‖ε − ε_θ(z_t, t, τ("a photo of a {v}"))‖²,     z the latents of the class's real images.

The images are ordinary samples under the prompt that contains v_c. So the words are the distilled dataset: they are
written to ``embeddings/<class>.safetensors`` beside the images, in the format of diffusers' ``load_textual_inversion``.
With ``prior_options={"concepts": "distilled/embeddings"}`` any method makes any number of images from them.

Only the abstract of D3M could be read, so its constants are not known. The constants here are those of the textual
inversion paper: 5,000 steps of 8 images, a learning rate of 0.005 times the 8 images, and one vector that starts at the
class's name. (The released code of textual inversion has one vector, the same batch and rate, and 6,100 steps.)
Differences from textual inversion: the learning rate warms up and falls linearly over the second half; gradients are
clipped to norm 1; there is one template instead of 27, and no flips.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dap.config import check_number, check_whole
from dap.errors import FormatError, OptionError
from dap.features import latents_bytes, real_latents
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.nets import optimise
from dap.priors import Demand, TextPrior
from dap.priors.textual_inversion import concept_file
from dap.sampling import denoising_loss, draw_noised, sample
from dap.storage.cache import CONCEPTS, CacheEntry
from dap.storage.unfinished import in_turns
from dap.torch_state import tf32_on

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["D3M"]

RULE = 1  # raise it with every change of the learned bits, so that words cached by older versions are not used
FOLDER = "embeddings"


@dataclass(frozen=True)
class D3M(Method[TextPrior]):
    """Learned words, one for each class, and samples under them.

    Attributes:
        vectors: Number of vectors in a word, at least 1.
        steps: Number of training steps for each word, at least 1.
        batch: Number of real images in a step, at least 1.
        learning_rate: The peak learning rate of AdamW, above 0.

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
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "training", "text")
    presets: ClassVar[Presets] = {"tiny": {"steps": 20, "batch": 4}}

    vectors: int = 1
    steps: int = 5000
    batch: int = 8
    learning_rate: float = 0.04

    def __post_init__(self) -> None:
        for option in ("vectors", "steps", "batch"):
            check_whole(option, getattr(self, option))
        check_number("learning_rate", self.learning_rate, above=0)

    def prepare(self, context: Context) -> TextPrior:
        """Return the prior with the learned words; each word is cached, so that an interrupted training resumes.

        Raises:
            OptionError: The prior has no text encoder.
        """
        prior = context.prior
        if not isinstance(prior, TextPrior):
            raise OptionError(
                f"method 'd3m' learns words for one text encoder, which {prior.name} does not have: use Stable "
                "Diffusion 1 or 2, or dap prior adapt for a prior with class labels"
            )
        real = real_latents(
            context.source, context.classes, prior, index=context.index, bars=context.bars,
            dtype=context.latent_dtype,
        )  # fmt: skip
        real.prepare()
        words, names = {}, [entry.name for entry in context.classes]
        entries = [self._entry(context, prior, name, real.ids[name]) for name in names]
        kept = "the words that are learned, and the steps of the next one up to a minute ago, are kept in the cache"
        with (
            context.bars.stage("words", total=len(names), unit="word", kept=kept) as bar,
            closing(in_turns(entries)) as numbers,
        ):
            for number in numbers:
                name = names[number]
                words[name] = self._learn(context, prior, name, real.of_class(name), entries[number])
                bar.update()
        return prior.with_concepts({name: words[name] for name in names}).for_classes(names)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates are all that is needed, once the words are learned."""
        return (Demand(),)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images."""
        return latents_bytes(context.source, context.prior, index=context.index)

    def make(self, context: Context, unit: Unit, artefact: TextPrior) -> Tensor:
        """Return latents of the unit's slots, sampled under the words."""
        names = [context.classes[slot.class_index].name for slot in unit.slots]
        labels = artefact.labels_of(sorted(set(names)))
        return sample(
            artefact, torch.tensor([labels[name] for name in names]), context.generators(unit),
            settings=context.settings, callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: TextPrior) -> Record:
        """Return the hash of each word."""
        return {"concepts": artefact.describe()["concepts"]}

    def files(self, context: Context, artefact: TextPrior) -> dict[str, bytes]:
        """Return the words in diffusers' format, by path."""
        files = [concept_file(name, concept) for name, concept in artefact.concepts.items()]
        return {f"{FOLDER}/{name}": data for name, data in files}

    def _entry(self, context: Context, prior: TextPrior, name: str, ids: Sequence[str]) -> CacheEntry:
        """Return the entry of the cache that has the word of a class, or the steps of its training so far."""
        described = {key: value for key, value in prior.describe().items() if key not in ("name", "prompts")}
        content = [
            RULE, context.source.identity(), name, list(ids), described, asdict(self), context.seed, version("torch"),
            prior.device.type, str(prior.dtype), *tf32_on(prior.device),
        ]  # fmt: skip
        return CacheEntry.of(CONCEPTS, content, ".safetensors")

    def _learn(self, context: Context, prior: TextPrior, name: str, latents: Tensor, entry: CacheEntry) -> Tensor:
        """Learn the word of a class, or read it from the cache; return it, float32 (vectors, D)."""
        entry.make_parent()
        word = prior.concept(name, self.vectors).requires_grad_()
        labels = torch.zeros(self.batch, dtype=torch.int64)  # not used: the loss passes the condition itself

        def loss(draw: torch.Generator) -> Tensor:
            chosen = torch.randint(len(latents), (self.batch,), generator=draw)
            noise, timesteps = draw_noised(self.batch, prior, draw)
            states = prior.concept_states(word).expand(self.batch, -1, -1)
            return denoising_loss(prior, latents[chosen], noise, timesteps, labels, condition=states).mean()

        def learn() -> None:
            optimise(
                {"word": word}, loss, steps=self.steps, peak_lr=self.learning_rate, seed=(context.seed, "d3m", name),
                checkpoint=entry.path, title=f"word of {name}", bars=context.bars, leave=False,
            )  # fmt: skip

        try:
            learn()
        except FormatError:  # the cache's file is damaged: learn the word from the start
            entry.remove()
            learn()
        return word.detach()
