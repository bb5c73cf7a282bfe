"""Base classes for what only some priors can do: learn embeddings of new classes, or concepts for a text encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from dap.priors.base import Prior

if TYPE_CHECKING:
    import torch
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
    def convert(self, dtype: torch.dtype, vae_dtype: torch.dtype) -> None:
        """Convert denoiser and first stage, in place; the prior's hash stays that of its weights before."""

    @abstractmethod
    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """Return the same prior under another name with rows (tables, D) of more classes; the pipeline is shared."""


class TextPrior(Prior):
    """A prior under text, for which concepts can be learned: V token embeddings that stand for a class in a prompt.

    Attributes:
        concepts: Learned concepts, float32 (V, D), by class name.
    """

    concepts: Mapping[str, Tensor]

    @abstractmethod
    def concept(self, name: str, vectors: int) -> Tensor:
        """Return the concept from which learning starts for a class, float32 (vectors, D)."""

    @abstractmethod
    def concept_states(self, concept: Tensor) -> Tensor:
        """Return the condition (tokens, width) of a prompt with a concept (V, D), with the graph to the concept."""

    @abstractmethod
    def with_concepts(self, concepts: Mapping[str, Tensor]) -> Self:
        """Return the same prior with learned concepts, (V, D) by class name; the networks are shared."""
