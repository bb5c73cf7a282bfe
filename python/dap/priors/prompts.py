"""Priors under text: the condition of a class is a prompt.

The id of a label is derived from its prompt, so that it does not depend on the other classes of a run.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.data.classmap import null_label
from dap.data.names import some
from dap.errors import OptionError
from dap.priors.label_names import WNID
from dap.priors.options import check_negative_prompt, check_template, read_prompts
from dap.priors.pipeline import PipelinePrior
from dap.rng import derive_seed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

__all__ = ["PromptedPrior", "name_in_prompt"]

KEPT = 256  # prompts whose hidden states are kept: with T5 they take megabytes each


class PromptedPrior(PipelinePrior):
    """A pipeline under text as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    A subclass implements :meth:`_encode` and :meth:`_under`, and names the pipeline's text encoders and tokenizers.

    Args:
        pipeline: A pipeline with text encoders and tokenizers.
        denoiser: Its network.
        blocks: The denoiser's blocks by name, in the order in which they run.
        size: Side of a latent, as the configuration of the denoiser has it.
        template: The prompt of a class, with ``{}`` for its name; an ImageNet wnid is replaced by its first synonym.
        prompts: Prompts of single classes by name, or a JSON file of them, used instead of the template.
        negative_prompt: The null condition of classifier-free guidance; None: ``no_prompt``, that of the pipeline.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.
        channels: Channels of a latent; None: the input channels of the network.

    Raises:
        OptionError: A template without ``{}``, or a prompt with more tokens than a text encoder reads.
    """

    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)  # attributes of the pipeline; those of None are left out
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    no_prompt: ClassVar[str | None] = ""  # the null condition without a negative prompt; None: as the pipeline has it
    longest: Mapping[str, int] = {}  # tokens of a prompt by tokenizer, where its own limit is another

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        denoiser: ModelMixin,
        blocks: Mapping[str, nn.Module],
        *,
        size: object,
        template: str,
        prompts: Mapping[str, str] | str | Path | None,
        negative_prompt: str | None,
        name: str | None,
        recommended: Mapping[str, Any],
        channels: int | None = None,
    ) -> None:
        super().__init__(
            pipeline, denoiser, pipeline.vae, blocks, size=size, name=name, channels=channels, recommended=recommended
        )
        check_template(template)
        check_negative_prompt(negative_prompt)
        self._template, self._prompts = template, read_prompts(prompts)
        self._negative = self.no_prompt if negative_prompt is None else negative_prompt
        for encoder in self._text_encoders():
            encoder.eval().requires_grad_(False)
        self._check_length(self._negative or "")
        self._encoded: dict[str | None, tuple[Tensor, ...]] = {}
        self._known: dict[int, str | None] = {}

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
            OptionError: A prompt has more tokens than the text encoder reads, or no class has one of ``prompts``.
        """
        if self._prompts and not self._prompts.keys() & set(class_names):
            raise OptionError(
                f"prompts: expected those of some of the classes {some(class_names)}, got those of "
                f"{some(list(self._prompts))}; name them as the classes are named"
            )
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
        return torch.stack([self._condition_of(self._prompt(label))[0] for label in labels.tolist()]).float()

    def describe(self) -> dict[str, object]:
        """Return what every pipeline describes, and template, prompts and vocabulary."""
        vocabularies = [getattr(self.pipeline, name).get_vocab() for name in self.tokenizers if self._has(name)]
        words = json.dumps(vocabularies[0] if len(vocabularies) == 1 else vocabularies, sort_keys=True)
        return super().describe() | {
            "template": self._template,
            "prompts": dict(self._prompts),
            "negative_prompt": self._negative,
            "vocabulary": hashlib.sha256(words.encode()).hexdigest(),
        }

    def _has(self, part: str) -> bool:
        return getattr(self.pipeline, part) is not None

    def _text_encoders(self) -> list[nn.Module]:
        return [getattr(self.pipeline, name) for name in self.encoders if self._has(name)]

    def _networks(self) -> list[ModelMixin]:
        return [*super()._networks(), *self._text_encoders()]

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        if sample.is_meta:  # only shapes are wanted
            parts = [sample.new_empty(len(sample), *shape) for shape in self._shapes]
        elif condition is not None and len(self._shapes) == 1:
            parts = [condition]
        else:
            prompts = [self._negative] * len(sample) if labels is None else map(self._prompt, labels.tolist())
            conditions = [self._condition_of(prompt) for prompt in prompts]
            parts = [torch.stack(part) for part in zip(*conditions, strict=True)]
        if condition is not None:
            parts[0] = condition
        return self._under(sample, timesteps, parts)

    @property
    @abstractmethod
    def _shapes(self) -> Sequence[tuple[int, ...]]:
        """The shapes of what :meth:`_encode` returns; the first is ``condition_shape``."""

    @abstractmethod
    def _encode(self, prompt: str | None) -> Sequence[Tensor]:
        """Return hidden states (tokens, width) of a prompt, and what else the denoiser takes from the text encoders."""

    @abstractmethod
    def _under(self, sample: Tensor, timesteps: Tensor, condition: Sequence[Tensor]) -> Tensor:
        """Return the network's output for x_t under what :meth:`_encode` returned, stacked over the slots."""

    def _prompt_of(self, name: str) -> str:
        """Return the prompt of a class, checked."""
        prompt = self._prompts.get(name) or self._template.replace("{}", name_in_prompt(name))
        self._check_length(prompt)
        return prompt

    def _label(self, prompt: str) -> int:
        """Return the id of a prompt; 31 bits, as indexes have."""
        return derive_seed("prompt", prompt) >> 32

    def _prompt(self, label: int) -> str | None:
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
        """Raise if a prompt has more tokens than a text encoder reads."""
        for name in self.tokenizers:
            if self._has(name):
                tokenizer = getattr(self.pipeline, name)
                tokens, most = len(tokenizer(prompt).input_ids), self.longest.get(name, tokenizer.model_max_length)
                if tokens > most:
                    raise OptionError(
                        f"prompt {prompt!r}: has {tokens} tokens, the text encoder reads {most}; shorten it"
                    )

    @torch.no_grad()
    def _condition_of(self, prompt: str | None) -> tuple[Tensor, ...]:
        """Return what :meth:`_encode` returns in the denoiser's dtype; that of the last prompts is kept."""
        if prompt not in self._encoded:
            while len(self._encoded) >= KEPT:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[prompt] = tuple(part.to(self.dtype) for part in self._encode(prompt))
        return self._encoded[prompt]


def name_in_prompt(name: str) -> str:
    """Return a class's name as prompts have it: the first synonym of an ImageNet wnid, spaces for underscores."""
    if WNID.fullmatch(name):
        from timm.data.imagenet_info import ImageNetInfo  # slow to import, so only if there is a wnid

        info = ImageNetInfo("imagenet-1k")
        if name in info.label_names():
            name = info.label_name_to_description(name)
    return name.split(",")[0].replace("_", " ").strip()
