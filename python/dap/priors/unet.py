"""The adapter to diffusers' pipelines with a ``UNet2DModel``: in pixel space, or behind a first stage.

``DDPMPipeline`` and ``DDIMPipeline`` (Ho et al., "Denoising Diffusion Probabilistic Models", 2020) denoise pixels,
``LDMPipeline`` (Rombach et al., 2022) latents of a VQ model. A network with class embeddings is asked for the class;
one without makes images of anything, and only guidance leads a slot to its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.errors import OptionError
from dap.priors.capabilities import ClassEmbeddingPrior
from dap.priors.class_embeddings import ClassTables
from dap.priors.pipeline import PipelinePrior
from dap.rng import derive_seed

__all__ = ["UNetPrior", "activations", "unet_blocks"]

RESNET, ATTENTION = 8, 30  # activations of a layer's width that are kept for the backward pass


class UNetPrior(PipelinePrior, ClassEmbeddingPrior):
    """A U-Net, unconditional or class-conditional, as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Classifier-free guidance needs a null condition, which these networks do not have: ``guidance_scale`` is 1.

    Args:
        pipeline: A ``DDPMPipeline``, ``DDIMPipeline`` or ``LDMPipeline``; any with ``unet``, ``scheduler`` and
            perhaps ``vqvae`` or ``vae``.
        class_names: Of a network with class embeddings, in their order; their numbers if left out.
        name: What the manifest calls it.
        recommended: Settings for sampling, as in ``dap_prior.json``.
        learned: Embeddings (1, D) of classes that the network was taught later, by name; see :func:`dap.adapt_prior`.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline")
    has_null = False

    def __init__(
        self,
        pipeline: Any,
        *,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        unet: Any = pipeline.unet
        first_stage = getattr(pipeline, "vqvae", None) or getattr(pipeline, "vae", None)
        blocks = unet_blocks(unet)
        middle = list(blocks).index("mid") + 1
        super().__init__(
            pipeline, unet, first_stage, blocks, size=_side(unet), name=name,
            recommended={"guidance_scale": 1.0, "block": middle, **(recommended or {})},
        )  # fmt: skip
        classes: int | None = unet.config.num_class_embeds
        if unet.class_embedding is not None and classes is None:
            raise OptionError(f"{self.name}: expected class embeddings by number, got {unet.config.class_embed_type!r}")
        named = class_names or [str(label) for label in range(classes or 0)]
        if len(set(named)) != (classes or 0):
            raise OptionError(f"class_names: expected {classes or 0} different names, got {len(set(named))}")
        embedding = unet.class_embedding
        if learned and embedding is None:
            raise OptionError(f"{self.name}: has no class embeddings, so none can be learned")
        self._tables = None if embedding is None else ClassTables([embedding], [embedding], null=None, learned=learned)
        self.condition_shape = self._tables.shape if self._tables else None
        self._class_names = named
        own = {label: number for number, label in enumerate(named)}
        self._labels = {**own, **(self._tables.labels if self._tables else {})}
        self.slot_bytes = activations(unet) * self.dtype.itemsize

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """The network's own labels; without class embeddings any name has an id, which means nothing to the network."""
        return self._labels if self._tables else {name: derive_seed("class", name) >> 32 for name in class_names}

    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """The same prior, under another name, with embeddings of more classes beside; the pipeline is shared."""
        return type(self)(
            self.pipeline, class_names=self._class_names, name=name, recommended=self.recommended,
            learned={**self._beside(), **learned},
        )  # fmt: skip

    def _beside(self) -> Mapping[str, Tensor]:
        return self._tables.learned if self._tables else {}

    def condition(self, labels: Tensor) -> Tensor:
        """The class embedding, (B, 1, D)."""
        if self._tables is None:
            raise OptionError(f"{self.name}: has no class embeddings, so there is no condition to start from")
        return self._tables.of(labels.to(self.device))

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        if labels is None:
            raise OptionError(f"{self.name}: has no null condition; use guidance_scale=1")
        if self._tables is None:
            return self._output(sample, timesteps, None)
        if condition is None and self._tables.are_own(labels):
            return self._output(sample, timesteps, labels)
        rows = self._tables.of(labels).to(self.dtype) if condition is None else condition
        with self._tables.replaced_by(rows):
            return self._output(sample, timesteps, torch.zeros_like(labels))

    def _output(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        output: Tensor = self.denoiser(sample, timesteps, class_labels=labels).sample
        return output


def unet_blocks(unet: Any) -> dict[str, nn.Module]:
    """The blocks by name, in the order in which they run: "down 1", …, "mid", "up 1", …."""
    down = {f"down {number}": block for number, block in enumerate(unet.down_blocks, start=1)}
    up = {f"up {number}": block for number, block in enumerate(unet.up_blocks, start=1)}
    return {**down, "mid": unet.mid_block, **up}


def activations(unet: Any) -> int:
    """Values of one slot that a backward pass from the mid block needs, roughly."""
    config, side, values = unet.config, _side(unet), 0
    for number, (width, kind) in enumerate(zip(config.block_out_channels, config.down_block_types, strict=True)):
        layer = RESNET + ATTENTION * ("Attn" in kind)
        values += config.layers_per_block * layer * width * (side >> number) ** 2
    return int(values + (2 * RESNET + ATTENTION) * config.block_out_channels[-1] * (side >> number) ** 2)


def _side(unet: Any) -> int:
    size = unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2 or sides[0] != sides[1]:
        raise OptionError(f"expected a U-Net for squares with its sample_size in the configuration, got {size}")
    return int(sides[0])
