"""The adapter to ``StableDiffusionPipeline``: a U-Net under text, with latents of a VAE.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv 2112.10752. Versions 1
predict ε, 2.1 at 768 pixels predicts v.

The condition of a class is a prompt. The id of a label is derived from its prompt, so that it does not depend on the
other classes of a run.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from dap.config import check_path
from dap.data.classmap import null_label
from dap.errors import FormatError, OptionError
from dap.priors.capabilities import TextPrior
from dap.priors.label_names import WNID
from dap.priors.networks import uncompiled
from dap.priors.pipeline import PipelinePrior
from dap.priors.textual_inversion import encode_concept, initial_concept, read_concepts
from dap.priors.unet import middle_block, pass_values, unet_blocks
from dap.rng import derive_seed
from dap.storage.checked_json import TEXT, mapping, read_json

if TYPE_CHECKING:
    from diffusers import ModelMixin, StableDiffusionPipeline

__all__ = ["StableDiffusionPrior", "name_in_prompt"]

OTHER_CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
CONCEPT = "\0"  # marks the name of a class that has a learned concept; no prompt begins with it


class StableDiffusionPrior(PipelinePrior, TextPrior):
    """A text-conditioned U-Net as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``StableDiffusionPipeline``. Its safety checker is not used.
        template: The prompt of a class, with ``{}`` for its name; an ImageNet wnid is replaced by its first synonym.
        prompts: Prompts of single classes by name, or a JSON file of them, used instead of the template.
        negative_prompt: The null condition of classifier-free guidance.
        concepts: Learned concepts (V, D) by class name, or a folder of them; a concept replaces the class's name in the
            template. Method ``d3m`` learns them.
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
    other_conditions: ClassVar[Mapping[str, object]] = {}  # of the U-Net's configuration, beside the text

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        *,
        template: str = "a photo of a {}",
        prompts: Mapping[str, str] | str | Path | None = None,
        negative_prompt: str = "",
        concepts: Mapping[str, Tensor] | str | Path | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        unet = uncompiled(pipeline.unet)
        blocks = unet_blocks(unet)
        other = [key for key in OTHER_CONDITIONS if unet.config.get(key) != self.other_conditions.get(key)]
        if other:
            raise OptionError(
                f"{name or 'prior'}: expected the U-Net of a {self.pipeline_types[0]}, this one differs in "
                f"{', '.join(other)}"
            )
        super().__init__(
            pipeline, unet, pipeline.vae, blocks, size=unet.config.sample_size, name=name,
            recommended={"guidance_scale": 7.5, "block": middle_block(blocks), **(recommended or {})},
        )  # fmt: skip
        if template.count("{}") != 1:
            raise OptionError(f"template: expected one {{}} for the class's name, got {template!r}")
        self._template, self._prompts, self._negative = template, _read(prompts), negative_prompt
        encoder = pipeline.text_encoder.eval().requires_grad_(False)
        self._check_length(negative_prompt)
        self.concepts = read_concepts(concepts)
        width = encoder.get_input_embeddings().embedding_dim
        for label, concept in self.concepts.items():
            if concept.dim() != 2 or concept.shape[1] != width:
                raise OptionError(f"concept {label!r}: expected shape (V, {width}), got {tuple(concept.shape)}")
        self._states: dict[str, Tensor] = {}
        self._known: dict[int, str] = {}
        across = unet.config.cross_attention_dim
        width = across if isinstance(across, int) else int(across[0])  # one for each level, all the same
        self.condition_shape = (pipeline.tokenizer.model_max_length, width)
        self.pass_bytes = pass_values(unet) * self.dtype.itemsize

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """Return an id for the prompt of each class.

        Raises:
            OptionError: A prompt has more tokens than the text encoder reads.
        """
        return {name: self._label(self._prompt_of(name)) for name in class_names}

    def for_classes(self, class_names: Sequence[str]) -> Self:
        """Return a prior that knows the prompts of these classes too; it shares the networks and the hidden states.

        Classes without a label (``null_label``) use the negative prompt.

        Raises:
            OptionError: A prompt has more tokens than the text encoder reads.
        """
        prompts = [self._prompt_of(name) for name in class_names]
        prior = copy.copy(self)
        prior._known = {
            **self._known,
            **{null_label(name): self._negative for name in class_names},
            **{self._label(prompt): prompt for prompt in prompts},
        }
        return prior

    def condition(self, labels: Tensor) -> Tensor:
        """Return hidden states of the labels' prompts, float32 (B, tokens, width)."""
        return torch.stack([self._embedding(self._prompt(label)) for label in labels.tolist()]).float()

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
            concepts=concepts, name=self.name, recommended=self.recommended,
        )  # fmt: skip
        prior._sha256, prior._origin, prior._hashed = self._sha256, self._origin, self._hashed
        return prior

    def describe(self) -> dict[str, object]:
        """Return what every pipeline describes, and template, prompts, vocabulary and hashes of the concepts."""
        vocabulary = json.dumps(self.pipeline.tokenizer.get_vocab(), sort_keys=True)
        return super().describe() | {
            "template": self._template,
            "prompts": dict(self._prompts),
            "negative_prompt": self._negative,
            "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest(),
            **({"concepts": {name: _digest(rows) for name, rows in self.concepts.items()}} if self.concepts else {}),
        }

    def _networks(self) -> list[ModelMixin]:
        return [*super()._networks(), self.pipeline.text_encoder]

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        states = condition
        if states is None and sample.is_meta:  # only shapes are wanted
            states = sample.new_empty(len(sample), *(self.condition_shape or ()))
        elif states is None:
            prompts = [self._negative] * len(sample) if labels is None else map(self._prompt, labels.tolist())
            states = torch.stack([self._embedding(prompt) for prompt in prompts])
        return self._output(sample, timesteps, states)

    def _output(self, sample: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        output: Tensor = self.denoiser(sample, timesteps, encoder_hidden_states=states).sample
        return output

    def _prompt_of(self, name: str) -> str:
        """Return the prompt of a class, checked; of a class with a learned concept, CONCEPT and its name."""
        if name in self.concepts:
            return f"{CONCEPT}{name}"
        prompt = self._prompts.get(name) or self._template.replace("{}", name_in_prompt(name))
        self._check_length(prompt)
        return prompt

    def _label(self, prompt: str) -> int:
        """Return the id of a prompt; 31 bits, as indexes have."""
        if prompt.startswith(CONCEPT):
            concept = self.concepts[prompt.removeprefix(CONCEPT)]
            return derive_seed("concept", self._template, _digest(concept)) >> 32
        return derive_seed("prompt", prompt) >> 32

    def _prompt(self, label: int) -> str:
        """Return the prompt of a label.

        Raises:
            OptionError: It is not a label of the classes that the prior was made for.
        """
        if label not in self._known:
            raise OptionError(
                f"{self.name}: knows no prompt for label {label}; use the prior that for_classes(class_names) returns"
            )
        return self._known[label]

    def _check_length(self, prompt: str) -> None:
        """Raise if a prompt has more tokens than the text encoder reads."""
        tokenizer = self.pipeline.tokenizer
        tokens, most = len(tokenizer(prompt).input_ids), tokenizer.model_max_length
        if tokens > most:
            raise OptionError(f"prompt {prompt!r}: has {tokens} tokens, the text encoder reads {most}; shorten it")

    @torch.no_grad()
    def _embedding(self, prompt: str) -> Tensor:
        """Return hidden states of a prompt, (tokens, width) in the denoiser's dtype; they are computed once."""
        if prompt not in self._states:
            if prompt.startswith(CONCEPT):
                states = self.concept_states(self.concepts[prompt.removeprefix(CONCEPT)].to(self.device))
            else:
                states = self._encoded(prompt)
            self._states[prompt] = states.to(self.dtype)
        return self._states[prompt]

    def _encoded(self, prompt: str) -> Tensor:
        states: Tensor = self.pipeline.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)[0][0]
        return states


def name_in_prompt(name: str) -> str:
    """Return a class's name as prompts have it: the first synonym of an ImageNet wnid, spaces for underscores."""
    if WNID.fullmatch(name):
        from timm.data.imagenet_info import ImageNetInfo  # slow to import, so only if there is a wnid

        info = ImageNetInfo("imagenet-1k")
        if name in info.label_names():
            name = info.label_name_to_description(name)
    return name.split(",")[0].replace("_", " ").strip()


def _digest(concept: Tensor) -> str:
    """Return the SHA-256 of a concept in hexadecimal."""
    return hashlib.sha256(concept.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def _read(prompts: Mapping[str, str] | str | Path | None) -> dict[str, str]:
    """Return prompts by class name: those given, or those of a JSON file."""
    if not isinstance(prompts, str | Path):
        return dict(prompts or {})
    try:
        by_name: dict[str, str] = read_json(check_path("prompts", prompts), mapping(TEXT))
    except (FileNotFoundError, FormatError) as error:
        raise FormatError(f"{prompts}: expected JSON with a prompt by class name ({error})") from error
    return by_name
