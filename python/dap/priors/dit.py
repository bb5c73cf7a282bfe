"""The adapter to diffusers' ``DiTPipeline`` (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dap.priors.capabilities import ClassEmbeddingPrior
from dap.priors.class_embeddings import ClassTables
from dap.priors.pipeline import PipelinePrior

__all__ = ["DiTPrior"]


class DiTPrior(PipelinePrior, ClassEmbeddingPrior):
    """A class-conditional DiT as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``DiTPipeline``. Its modules are used as they are, in eval mode and frozen, never changed.
        name: What the manifest calls it.
        learned_variance: See :class:`dap.priors.pipeline.PipelinePrior`.
        guided_channels: See there.
        recommended: Settings for sampling, as in ``dap_prior.json``.
        learned: Embeddings (blocks, D) of classes that the network was taught later, by name; see
            :func:`dap.adapt_prior`.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("DiTPipeline",)

    def __init__(
        self,
        pipeline: Any,
        *,
        name: str | None = None,
        learned_variance: bool = False,
        guided_channels: int | None = None,
        recommended: Mapping[str, Any] | None = None,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        transformer: Any = pipeline.transformer
        config = transformer.config
        blocks = {f"block {number}": block for number, block in enumerate(transformer.transformer_blocks, start=1)}
        super().__init__(
            pipeline, transformer, pipeline.vae, blocks, size=config.sample_size, name=name,
            learned_variance=learned_variance, guided_channels=guided_channels, recommended=recommended,
        )  # fmt: skip
        embedders = [block.norm1.emb.class_embedder for block in blocks.values()]
        self._null_label = config.num_embeds_ada_norm
        self._tables = ClassTables(
            [each.embedding_table for each in embedders], embedders, null=self._null_label, learned=learned
        )
        self.condition_shape = self._tables.shape
        self.labels = {**_unambiguous_labels(pipeline), **self._tables.labels}
        tokens = (config.sample_size // config.patch_size) ** 2
        width = config.num_attention_heads * config.attention_head_dim
        # about 40 activations of each token's width are kept for the backward pass through a block
        self.slot_bytes = 40 * len(blocks) * tokens * width * self.dtype.itemsize

    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """The same prior, under another name, with embeddings of more classes beside; the pipeline is shared."""
        return type(self)(
            self.pipeline, name=name, learned_variance=self._learned_variance, guided_channels=self._guided_channels,
            recommended=self.recommended, learned={**self._tables.learned, **learned},
        )  # fmt: skip

    def _beside(self) -> Mapping[str, Tensor]:
        return self._tables.learned

    def condition(self, labels: Tensor) -> Tensor:
        """The class embedding of each block, (B, blocks, D)."""
        return self._tables.of(labels.to(self.device))

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        if labels is None:
            labels = torch.full((len(sample),), self._null_label, device=self.device)
        elif condition is None and not self._tables.are_own(labels):
            condition = self._tables.of(labels).to(self.dtype)
        own = self._tables.looked_up(labels)
        with nullcontext() if condition is None else self._tables.replaced_by(condition):
            known = own if condition is None else torch.zeros_like(own)  # what is looked up is replaced
            output: Tensor = self.denoiser(sample, timestep=timesteps, class_labels=known).sample
        return output


def _unambiguous_labels(pipeline: Any) -> dict[str, int]:
    """Label names that lead to one id. ImageNet has two "crane"s, of which ``pipeline.labels`` silently keeps one."""
    ids: dict[str, set[int]] = {}
    for label, names in (pipeline.config.get("id2label") or {}).items():
        for name in names.split(","):
            ids.setdefault(name.strip(), set()).add(int(label))
    known = ids or {name: {label} for name, label in pipeline.labels.items()}
    return {name: labels.pop() for name, labels in known.items() if len(labels) == 1}
