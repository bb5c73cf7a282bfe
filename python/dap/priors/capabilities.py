"""What only some priors can do: learn the embeddings of new classes, or words for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from dap.priors.base import Prior

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin
    from torch import Tensor

__all__ = ["ClassEmbeddingPrior", "TextPrior"]


class ClassEmbeddingPrior(Prior):
    """A prior that looks labels up in class embeddings, so that new classes can be learned as rows of them.

    Attributes:
        pipeline: The diffusers pipeline.
        denoiser: Its network, to which low-rank changes are added.
    """

    pipeline: DiffusionPipeline
    denoiser: ModelMixin

    @abstractmethod
    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """Return the same prior under another name with rows (tables, D) of more classes; the pipeline is shared."""


class TextPrior(Prior):
    """A prior that takes text, so that new words (V token embeddings) can be learned for classes.

    Attributes:
        concepts: Learned words, float32 (V, D), by class name.
    """

    concepts: Mapping[str, Tensor]

    @abstractmethod
    def concept(self, name: str, vectors: int) -> Tensor:
        """Return the word from which the learning for a class starts, float32 (vectors, D)."""

    @abstractmethod
    def concept_states(self, concept: Tensor) -> Tensor:
        """Return the condition (tokens, width) of the prompt with a word (V, D) in it, with the graph to the word."""

    @abstractmethod
    def with_concepts(self, concepts: Mapping[str, Tensor]) -> Self:
        """Return the same prior with learned words, (V, D) by class name; the networks are shared."""
