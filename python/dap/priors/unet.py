"""The adapter to diffusers' pipelines with a ``UNet2DModel``: in pixel space, or behind a first stage.

``DDPMPipeline`` and ``DDIMPipeline`` (Ho et al., "Denoising Diffusion Probabilistic Models", 2020) denoise pixels,
``LDMPipeline`` (Rombach et al., 2022) latents of a VQ model. A network with class embeddings takes the class as its
condition; a network without them is unconditional, and only guidance leads a slot to its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.errors import OptionError
from dap.priors.capabilities import ClassEmbeddingPrior
from dap.priors.class_embeddings import ClassEmbeddings
from dap.priors.label_names import imagenet_labels
from dap.priors.networks import square_side, uncompiled
from dap.priors.options import check_class_names
from dap.priors.pipeline import PipelinePrior
from dap.rng import derive_seed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin

__all__ = ["UNetPrior", "middle_block", "pass_values", "unet_blocks"]

# values per channel and position that a level holds at once: a residual layer, attention, a transformer; with the skips
RESNET, ATTENTION, TRANSFORMER = 6, 8, 24


class UNetPrior(PipelinePrior, ClassEmbeddingPrior):
    """A U-Net, unconditional or class-conditional, as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Classifier-free guidance needs a null condition, which these networks do not have: ``guidance_scale`` is 1.

    Args:
        pipeline: A ``DDPMPipeline``, ``DDIMPipeline`` or ``LDMPipeline``; any with ``unet``, ``scheduler`` and
            perhaps ``vqvae`` or ``vae``.
        class_names: Names of the class embeddings in their order; their numbers if left out.
        name: Name of the prior in the manifest.
        recommended: Settings for sampling, as in ``dap_prior.json``.
        learned: Embeddings (1, D) of classes that were learned later, by name; see :func:`dap.adapt_prior`.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ("DDPMPipeline", "DDIMPipeline", "LDMPipeline")
    has_null = False

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        recommended: Mapping[str, Any] | None = None,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        unet = uncompiled(pipeline.unet)
        # what diffusers' pipelines call their first stage, if they have one
        first_stage = getattr(pipeline, "vqvae", None) or getattr(pipeline, "vae", None)
        blocks = unet_blocks(unet)
        super().__init__(
            pipeline, unet, first_stage, blocks, size=unet.config.sample_size, name=name,
            recommended={"guidance_scale": 1.0, "block": middle_block(blocks), **(recommended or {})},
        )  # fmt: skip
        classes: int | None = unet.config.num_class_embeds
        if unet.class_embedding is not None and classes is None:
            raise OptionError(f"{self.name}: expected class embeddings by number, got {unet.config.class_embed_type!r}")
        if class_names is not None:
            check_class_names(class_names)
        self._class_names = class_names or [str(label) for label in range(classes or 0)]
        self.labels = {label: number for number, label in enumerate(self._class_names)}
        if len(self.labels) != (classes or 0):
            raise OptionError(f"class_names: expected {classes or 0} different names, got {len(self.labels)}")
        table = unet.class_embedding
        if learned and table is None:
            raise OptionError(f"{self.name}: has no class embeddings, so none can be learned")
        self._embeddings = None
        if table is not None:
            self._embeddings = ClassEmbeddings([table], [table], null=None, learned=learned)
            self.condition_shape = self._embeddings.shape
            self.labels = {**self.labels, **imagenet_labels(len(self._class_names)), **self._embeddings.labels}
        self._has_learned = bool(learned)
        self.pass_bytes = pass_values(unet) * self.dtype.itemsize

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """Return the network's labels; without class embeddings, an unused id for every name."""
        return self.labels if self._embeddings else {name: derive_seed("class", name) >> 32 for name in class_names}

    def with_learned(self, learned: Mapping[str, Tensor], *, name: str) -> Self:
        """Return the same prior under another name with embeddings of more classes; the pipeline is shared."""
        return type(self)(
            self.pipeline, class_names=self._class_names, name=name, recommended=self.recommended,
            learned={**self._learned_tensors(), **learned},
        )  # fmt: skip

    def _learned_tensors(self) -> Mapping[str, Tensor]:
        return self._embeddings.learned if self._embeddings else {}

    def condition(self, labels: Tensor) -> Tensor:
        """Return the class embedding, float32 (B, 1, D).

        Raises:
            OptionError: The network has no class embeddings.
        """
        if self._embeddings is None:
            raise OptionError(f"{self.name}: has no class embeddings, so labels have no condition")
        return self._embeddings.rows(labels.to(self.device))

    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        if labels is None:
            raise OptionError(f"{self.name}: has no null condition; use guidance_scale=1")
        if self._embeddings is None:
            return self._output(sample, timesteps, None)
        if condition is None and self._has_learned and self._embeddings.any_learned(labels):
            condition = self._embeddings.rows(labels).to(self.dtype)
        if condition is None:
            return self._output(sample, timesteps, labels)
        with self._embeddings.replaced_by(condition):
            return self._output(sample, timesteps, torch.zeros_like(labels))

    def _output(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        output: Tensor = self.denoiser(sample, timesteps, class_labels=labels).sample
        return output


def unet_blocks(unet: ModelMixin) -> dict[str, nn.Module]:
    """Return the blocks by name, in the order in which they run: "down 1", …, "mid", "up 1", …."""
    down = {f"down {number}": block for number, block in enumerate(unet.down_blocks, start=1)}
    up = {f"up {number}": block for number, block in enumerate(unet.up_blocks, start=1)}
    middle = {} if unet.mid_block is None else {"mid": unet.mid_block}  # distilled U-Nets have none
    return {**down, **middle, **up}


def middle_block(blocks: Mapping[str, nn.Module]) -> int:
    """Return the number of the "mid" block, or of the last down block of a U-Net without one."""
    return list(blocks).index("mid") + 1 if "mid" in blocks else sum(name.startswith("down") for name in blocks)


def pass_values(unet: ModelMixin) -> int:
    """Return roughly how many values one slot takes at once in a pass without a graph: those of its largest level."""
    config, side = unet.config, square_side("U-Net", unet.config.sample_size)
    values = 0
    for level, (width, kind) in enumerate(zip(config.block_out_channels, config.down_block_types, strict=True)):
        layer = TRANSFORMER if "CrossAttn" in kind else ATTENTION if "Attn" in kind else RESNET
        values = max(values, layer * width * (side >> level) ** 2)
    return values
