"""The adapter to ``StableDiffusionPipeline``: a U-Net under text, with latents of a VAE.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv 2112.10752. Versions 1
predict ε, 2.1 at 768 pixels predicts v.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from dap.errors import OptionError
from dap.priors.capabilities import TextPrior
from dap.priors.networks import uncompiled
from dap.priors.prompts import name_in_prompt
from dap.priors.text_unet import TextUNetPrior
from dap.priors.textual_inversion import encode_concept, initial_concept, read_concepts
from dap.rng import derive_seed

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["StableDiffusionPrior"]

OTHER_CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
CONCEPT = "\0"  # marks the name of a class that has a learned concept; no prompt begins with it


class StableDiffusionPrior(TextUNetPrior, TextPrior):
    """A text-conditioned U-Net as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``StableDiffusionPipeline``. Its safety checker is not used.
        template: The prompt of a class, with ``{}`` for its name; an ImageNet wnid is replaced by its first synonym.
        prompts: Prompts of single classes by name, or a JSON file of them, used instead of the template.
        negative_prompt: The null condition of classifier-free guidance; None: the empty prompt.
        concepts: Learned concepts (V, D) by class name, or a folder of them; a concept replaces the class's name in the
            template. Method ``d3m`` learns them.
        guidance: The scale of guidance that a latent consistency model takes as an input, at least 1; None: 7.5. Its
            run has ``guidance_scale`` 1. Other networks have no such input.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Attributes:
        concepts: Learned concepts (V, D) by class name.

    Raises:
        OptionError: A template without ``{}``, or a prompt with more tokens than the text encoder reads.

    Example:
        >>> prior = StableDiffusionPrior.from_pretrained(  # doctest: +SKIP
        ...     "stable-diffusion-v1-5/stable-diffusion-v1-5", template="a photo of a {}, on a white table"
        ... )
        >>> dap.distill("path/to/train", prior=prior, method="dap_set", out="distilled")  # doctest: +SKIP
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    components: ClassVar[Mapping[str, object]] = {
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str | None = None,
        concepts: Mapping[str, Tensor] | str | Path | None = None,
        guidance: float | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        config = uncompiled(pipeline.unet).config
        other = [key for key in OTHER_CONDITIONS if config.get(key) is not None]
        if other:
            raise OptionError(f"{name or 'prior'}: expected a U-Net under text alone, this one has {', '.join(other)}")
        super().__init__(
            pipeline, guidance=guidance, guidance_scale=7.5, template=template, prompts=prompts,
            negative_prompt=negative_prompt, name=name, recommended=recommended,
        )  # fmt: skip
        self.concepts = read_concepts(concepts)
        width = pipeline.text_encoder.get_input_embeddings().embedding_dim
        for label, concept in self.concepts.items():
            if concept.dim() != 2 or concept.shape[1] != width:
                raise OptionError(f"concept {label!r}: expected shape (V, {width}), got {tuple(concept.shape)}")
        across = config.cross_attention_dim
        width = across if isinstance(across, int) else int(across[0])  # one for each level, all the same
        self.condition_shape = (pipeline.tokenizer.model_max_length, width)

    def concept(self, name: str, vectors: int) -> Tensor:
        """Return the concept from which learning starts: token embeddings of the name, float32 (vectors, D)."""
        return initial_concept(self.pipeline, name_in_prompt(name), vectors).to(self.device)

    def concept_states(self, concept: Tensor) -> Tensor:
        """Return hidden states (tokens, width) of the template with a concept (V, D), with the graph to the concept."""
        return encode_concept(self.pipeline, self._template, concept)

    def with_concepts(self, concepts: Mapping[str, Tensor]) -> Self:
        """Return the same prior with learned concepts, (V, D) by class name; the pipeline is shared."""
        prior = type(self)(
            self.pipeline, template=self._template, prompts=self._prompts, negative_prompt=self._negative,
            concepts=concepts, guidance=self._guidance, name=self.name, recommended=self.recommended,
        )  # fmt: skip
        prior._sha256, prior._origin, prior._hashed = self._sha256, self._origin, self._hashed
        return prior

    def describe(self) -> dict[str, object]:
        """Return what every U-Net under text describes, and hashes of the concepts."""
        hashes = {name: _digest(rows) for name, rows in self.concepts.items()}
        return super().describe() | ({"concepts": hashes} if hashes else {})

    @property
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        return (self.condition_shape or (),)

    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        return self._predicted(sample, timesteps, condition[0])

    def _prompt_of(self, name: str) -> str:
        """Return the prompt of a class, checked; of a class with a learned concept, CONCEPT and its name."""
        return f"{CONCEPT}{name}" if name in self.concepts else super()._prompt_of(name)

    def _label(self, prompt: str) -> int:
        if prompt.startswith(CONCEPT):
            concept = self.concepts[prompt.removeprefix(CONCEPT)]
            return derive_seed("concept", self._template, _digest(concept)) >> 32
        return super()._label(prompt)

    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        if prompt is not None and prompt.startswith(CONCEPT):
            return (self.concept_states(self.concepts[prompt.removeprefix(CONCEPT)].to(self.device)),)
        return (self.pipeline.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)[0][0],)


def _digest(concept: Tensor) -> str:
    """Return the SHA-256 of a concept in hexadecimal."""
    return hashlib.sha256(concept.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
