"""Base class of the adapters to diffusers' pipelines: first stage, sampling, guidance and taps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.config import check_whole
from dap.errors import OptionError
from dap.priors import pipeline_folder
from dap.priors.base import Prediction
from dap.priors.batches import ImageBytes, first_stage_bytes
from dap.priors.demand import Demand, StepBytes
from dap.priors.estimates import estimates_of
from dap.priors.first_stage import decode_latents, encode_pixels, image_scale, levels
from dap.priors.memory import measure_step, without_data
from dap.priors.networks import square_side, uncompiled
from dap.priors.noise_levels import denoiser_level
from dap.priors.options import check_learned_variance
from dap.priors.pipeline_networks import PipelineNetworks
from dap.priors.schedulers import check_schedule, make_scheduler
from dap.priors.taps import network_lock, stopped_at, tapped
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

__all__ = ["PipelinePrior"]


class PipelinePrior(PipelineNetworks):
    """A diffusers pipeline as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Its modules are used as they are, in eval mode and frozen, never changed. A subclass names the blocks of its network
    and implements :meth:`_forward`.

    Args:
        pipeline: Has a ``scheduler``, and says where its modules run.
        denoiser: The network that denoises.
        first_stage: ``AutoencoderKL``, ``VQModel`` or ``AutoencoderDC``; None: the denoiser sees pixels.
        blocks: The denoiser's blocks by name, in the order in which they run.
        size: Side of a latent, as the configuration of the denoiser has it.
        name: Name of the prior in the manifest.
        learned_variance: Use the variance that a network with twice the channels predicts (IDDPM's learned range), as
            the DiT repository samples. Off, as in diffusers' pipelines, the extra channels are dropped.
        guided_channels: Apply classifier-free guidance to this many latent channels only, the first ones. The DiT
            repository and its descendants guide 3 of 4; the others keep the conditional value. None guides all.
        channels: Channels of a latent; None: the input channels of the network.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Attributes:
        pipeline: As given.
        denoiser: As given.
        blocks: As given.
        labels: Ids of the labels that the network knows, by name.
    """

    has_null = True
    labels: Mapping[str, int] = {}
    spaced_to_zero: ClassVar[bool] = False  # see dap.priors.flow.flow_scheduler

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        denoiser: ModelMixin,
        first_stage: ModelMixin | None,
        blocks: Mapping[str, nn.Module],
        *,
        size: object,
        name: str | None,
        learned_variance: bool = False,
        guided_channels: int | None = None,
        channels: int | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name or f"{type(pipeline).__name__} object"
        self.pipeline, self.blocks = pipeline, dict(blocks)
        # a module under torch.compile is used without it: it would not call the hooks that are set later
        self.denoiser, self._vae = denoiser, first_stage = uncompiled(denoiser), uncompiled(first_stage)
        self._scheduler: SchedulerMixin = pipeline.scheduler
        for module in (denoiser, first_stage):
            if module is not None:
                module.eval().requires_grad_(False)
        self._predicts = check_schedule(self.name, self._scheduler)
        taken, predicted = denoiser.config.in_channels, denoiser.config.out_channels or denoiser.config.in_channels
        if predicted not in (taken, 2 * taken):
            raise OptionError(
                f"{self.name}: expected a network with as many output as input channels, or twice as many, got "
                f"{taken} and {predicted}; networks for inpainting and the like need other conditions"
            )
        self._predicts_variance, channels = predicted == 2 * taken, channels or taken
        side = square_side(self.name, size)
        image_channels, scale = image_scale(self.name, first_stage) if first_stage is not None else (channels, 1)
        self.latent_shape = (channels, side, side)
        self.image_shape = (image_channels, side * scale, side * scale)
        self.block_names = tuple(self.blocks)
        self.recommended = dict(recommended or {})
        self.device: torch.device = pipeline._execution_device  # not where offloaded modules wait
        # of quantised weights, that in which it computes
        self.dtype: torch.dtype = denoiser.dtype if denoiser.dtype.is_floating_point else torch.float32
        self.vae_dtype = None if first_stage is None else first_stage.dtype
        self.license = pipeline_folder.licence_of(pipeline.name_or_path)
        self._set_sampling(learned_variance, guided_channels)

    def with_sampling(self, *, learned_variance: bool | None = None, guided_channels: int | None = None) -> Self:
        """See :meth:`dap.priors.base.Prior.with_sampling`; the networks are shared."""
        prior = copy.copy(self)
        prior._set_sampling(
            self.learned_variance if learned_variance is None else learned_variance,
            guided_channels or self.guided_channels,
        )
        return prior

    @property
    def predicts_variance(self) -> bool:
        """Whether the network predicts a variance that sampling can use (``learned_variance``)."""
        return self._predicts_variance and self._predicts != "flow"

    def _set_sampling(self, learned_variance: bool, guided_channels: int | None) -> None:
        channels, predicted = self.latent_shape[0], self.denoiser.config.out_channels
        check_learned_variance(learned_variance)
        if learned_variance and self._predicts == "flow":
            raise OptionError(f"{self.name}: learned_variance: flow matching has no variance; leave it out")
        if learned_variance and not self._predicts_variance:
            raise OptionError(f"{self.name}: learned_variance needs {2 * channels} output channels, got {predicted}")
        if guided_channels is not None:
            check_whole("guided_channels", guided_channels, 1, channels)
        self.learned_variance, self.guided_channels = learned_variance, guided_channels

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """See :meth:`dap.priors.base.Prior.labels_of`."""
        return self.labels

    @property
    def image_bytes(self) -> ImageBytes:
        """See :meth:`dap.priors.base.Prior.image_bytes`."""
        channels, side, _ = self.image_shape
        if self._vae is None:
            pixels = 4 * 4 * channels * side * side
            return ImageBytes(pixels, pixels, pixels, self.pass_bytes)
        widths, layers = levels(self._vae)
        first_stage = first_stage_bytes(side, self._vae.dtype.itemsize, widths=widths, layers=layers)
        return ImageBytes(*first_stage, self.pass_bytes)

    def step_bytes(self, demand: Demand, *, guidance_scale: float) -> StepBytes:
        """See :meth:`dap.priors.base.Prior.step_bytes`; measured by :mod:`dap.priors.memory`."""
        return measure_step(self, demand, guidance_scale)

    def without_data(self) -> Self:
        """See :meth:`dap.priors.base.Prior.without_data`."""
        paths = {id(module): path for path, module in self.denoiser.named_modules()}
        prior = copy.copy(self)
        prior.denoiser = without_data(self.denoiser)
        prior._vae = None if self._vae is None else without_data(self._vae)
        prior.blocks = {name: prior.denoiser.get_submodule(paths[id(block)]) for name, block in self.blocks.items()}
        prior.device, prior._predicts = torch.device("meta"), "epsilon"  # noise levels of v have values
        return prior

    @own_torch_state()
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`dap.priors.base.Prior.encode`."""
        # divided in the dtype of the first stage
        pixels: Tensor = images.to(self.device, torch.float32 if self._vae is None else self._vae.dtype) / 127.5 - 1
        return pixels if self._vae is None else encode_pixels(self.name, self._vae, pixels)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """See :meth:`dap.priors.base.Prior.decode_pixels`."""
        latents = latents.to(self.device)
        return latents.float() if self._vae is None else decode_latents(self.name, self._vae, latents)

    def scheduler(self, name: str | None, num_inference_steps: int) -> SchedulerMixin:
        """See :meth:`dap.priors.base.Prior.scheduler`."""
        if self._predicts != "flow":
            return make_scheduler(
                self._scheduler, name, num_inference_steps, device=self.device, learned_variance=self.learned_variance
            )
        from dap.priors.flow import flow_scheduler  # it imports diffusers, which takes seconds

        return flow_scheduler(
            self._scheduler, name, num_inference_steps, device=self.device, tokens=self.tokens,
            spaced_to_zero=self.spaced_to_zero,
        )  # fmt: skip

    def noise_schedule(self) -> SchedulerMixin:
        """See :meth:`dap.priors.base.Prior.noise_schedule`."""
        return self.scheduler(None, 1) if self._predicts == "flow" else super().noise_schedule()

    def denoise(
        self,
        sample: Tensor,
        timestep: Tensor,
        labels: Tensor,
        *,
        guidance_scale: float = 1.0,
        taps: Collection[int] = (),
        through: bool = False,
        condition: Tensor | None = None,
        sigma: float | None = None,
    ) -> Prediction:
        """See :meth:`dap.priors.base.Prior.denoise`.

        The conditional and the null pass run one after the other, so that only the former carries a graph.
        """
        with network_lock(self.denoiser), tapped(self.blocks, taps, cut=not through) as features:
            conditional = self._run(sample, timestep, labels, condition)
        channels = self.latent_shape[0]
        output, labelled = conditional[:, :channels], None
        if guidance_scale != 1:
            labelled = output
            guided = self.guided_channels or channels
            with network_lock(self.denoiser), torch.set_grad_enabled(through and torch.is_grad_enabled()):
                null = self._run(sample, timestep, None, None)[:, :guided]
            output = torch.cat([null + guidance_scale * (output[:, :guided] - null), output[:, guided:]], dim=1)
        variance = conditional[:, channels:] if self.learned_variance else None
        if self._predicts == "epsilon":
            return Prediction(output, variance, features, labelled)
        levels = denoiser_level(self._scheduler, timestep.to(self.device), sigma)
        noised = sample if through else sample.detach()
        eps, x0 = estimates_of(self._predicts, noised, output, *levels)
        of_label = (None, None) if labelled is None else estimates_of(self._predicts, noised, labelled, *levels)
        return Prediction(eps, variance, features, of_label[0], x0, of_label[1])

    @own_torch_state()
    @torch.no_grad()
    def features(self, sample: Tensor, timestep: Tensor, labels: Tensor, block: int) -> Tensor:
        """See :meth:`dap.priors.base.Prior.features`."""
        with network_lock(self.denoiser), stopped_at(self.blocks, block) as features:
            self._run(sample, timestep, labels, None)
        return features[block]

    @property
    def tokens(self) -> int:
        """The tokens of an image in the denoiser, in which a patch is two positions wide unless it says so."""
        return (self.latent_shape[1] // (self.denoiser.config.get("patch_size") or 2)) ** 2

    def _run(self, sample: Tensor, timestep: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        timesteps = timestep.to(self.device).expand(len(sample))
        condition = None if condition is None else condition.to(self.device, self.dtype)
        return self._forward(sample.to(self.dtype), timesteps, labels, condition).float()

    @abstractmethod
    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        """Return the network's output (B, channels, h, w) for x_t in the network's dtype and a timestep for each slot.

        ``labels`` None is the null condition; ``condition``, if not None, is used in place of that of the labels.
        """
