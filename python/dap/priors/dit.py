"""The adapter to diffusers' ``DiTPipeline`` (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from dap.data.classmap import NULL_LABELS
from dap.priors.capabilities import ClassEmbeddingPrior
from dap.priors.class_embeddings import ClassEmbeddings
from dap.priors.label_names import label_names
from dap.priors.networks import uncompiled
from dap.priors.pipeline import PipelinePrior

if TYPE_CHECKING:
    from diffusers import DiTPipeline, DiTTransformer2DModel

__all__ = ["DiTPrior"]

PASS = 10  # values of a token in a block, in units of its width: the feed-forward layer has four before and four after


class DiTPrior(PipelinePrior, ClassEmbeddingPrior):
    """A class-conditional DiT as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``DiTPipeline``. Its modules are used as they are, in eval mode and frozen, never changed.
        name: Name of the prior in the manifest.
        learned_variance: See :class:`dap.priors.pipeline.PipelinePrior`.
        guided_channels: See there.
        recommended: Settings for sampling, as in ``dap_prior.json``.
        learned: Embeddings (blocks, D) of classes that were learned later, by name; see :func:`dap.adapt_prior`.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("DiTPipeline",)

    def __init__(
        self,
        pipeline: DiTPipeline,
        *,
        name: str | None = None,
        learned_variance: bool = False,
        guided_channels: int | None = None,
        recommended: Mapping[str, Any] | None = None,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        transformer = uncompiled(pipeline.transformer)
        config, layers = transformer.config, list(transformer.transformer_blocks)
        super().__init__(
            pipeline, transformer, pipeline.vae,
            {f"block {number}": layer for number, layer in enumerate(layers, start=1)}, size=config.sample_size,
            name=name, learned_variance=learned_variance, guided_channels=guided_channels, recommended=recommended,
        )  # fmt: skip
        embedders = [layer.norm1.emb.class_embedder for layer in layers]
        self._null_label: int = config.num_embeds_ada_norm
        self._embeddings = ClassEmbeddings(
            [embedder.embedding_table for embedder in embedders], embedders, null=self._null_label, learned=learned
        )
        self._has_learned = bool(learned)
        self.condition_shape = self._embeddings.shape
        names = label_names(self.name, pipeline, self._null_label)
        self.labels = {**names.labels, **self._embeddings.labels}
        self.ambiguous = names.ambiguous
        width = config.num_attention_heads * config.attention_head_dim
        self.pass_bytes = PASS * self.tokens * width * self.dtype.itemsize

    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """Return the same prior under another name with embeddings of more classes; the pipeline is shared."""
        return type(self)(
            self.pipeline, name=name, learned_variance=self.learned_variance, guided_channels=self.guided_channels,
            recommended=self.recommended, learned={**self._learned_tensors(), **learned},
        )  # fmt: skip

    def with_denoiser(self, denoiser: DiTTransformer2DModel, *, name: str) -> Self:
        """Return the same prior under another name with another network of the same shape; the VAE is shared.

        The network is frozen.
        """
        pipeline = copy.copy(self.pipeline)
        pipeline.transformer = denoiser
        return type(self)(
            pipeline, name=name, learned_variance=self.learned_variance, guided_channels=self.guided_channels,
            recommended=self.recommended, learned=self._learned_tensors(),
        )  # fmt: skip

    def condition(self, labels: Tensor) -> Tensor:
        """Return the class embedding of each block, float32 (B, blocks, D)."""
        return self._embeddings.rows(labels.to(self.device))

    def _learned_tensors(self) -> Mapping[str, Tensor]:
        return self._embeddings.learned

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        if labels is None:
            labels = torch.full((len(sample),), self._null_label, device=self.device)
        elif condition is None and self._has_learned and self._embeddings.any_learned(labels):
            condition = self._embeddings.rows(labels).to(self.dtype)
        if condition is None:
            return self._output(sample, timesteps, torch.where(labels >= NULL_LABELS, self._null_label, labels))
        with self._embeddings.replaced_by(condition):
            return self._output(sample, timesteps, torch.zeros_like(labels))

    def _output(self, sample: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        output: Tensor = self.denoiser(sample, timestep=timesteps, class_labels=labels).sample
        return output
