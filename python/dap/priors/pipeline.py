"""Base class of the adapters to diffusers' pipelines: loading, hashing, first stage, guidance and taps."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.device import named_dtype, resolve_device
from dap.errors import OptionError, SourceError
from dap.priors import pipeline_folder
from dap.priors.base import Prediction, Prior
from dap.priors.batches import ImageBytes, first_stage_bytes
from dap.priors.demand import Demand, StepBytes
from dap.priors.fingerprint import Origin, fingerprint
from dap.priors.first_stage import decode_latents, encode_pixels, image_scale
from dap.priors.hub import Files
from dap.priors.memory import measure_step, tensor_bytes, without_data
from dap.priors.networks import square_side, uncompiled
from dap.priors.schedulers import check_schedule, denoiser_level, make_scheduler
from dap.priors.taps import network_lock, stopped_at, tapped
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

    from dap.storage.file_states import FileStates

__all__ = ["PipelinePrior"]


class PipelinePrior(Prior):
    """A diffusers pipeline as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Its modules are used as they are, in eval mode and frozen, never changed. A subclass names the blocks of its network
    and implements :meth:`_forward`.

    Args:
        pipeline: Has a ``scheduler``, and says where its modules run.
        denoiser: The network that denoises.
        first_stage: ``AutoencoderKL`` or ``VQModel``; None: the denoiser sees pixels.
        blocks: The denoiser's blocks by name, in the order in which they run.
        size: Side of a latent, as the configuration of the denoiser has it.
        name: Name of the prior in the manifest.
        learned_variance: Use the variance that a network with twice the channels predicts (IDDPM's learned range), as
            the DiT repository samples. Off, as in diffusers' pipelines, the extra channels are dropped.
        guided_channels: Apply classifier-free guidance to this many latent channels only, the first ones. The DiT
            repository and its descendants guide 3 of 4; the others keep the conditional value. None guides all.
        recommended: Settings for sampling, as in ``dap_prior.json``.

    Attributes:
        pipeline: As given.
        denoiser: As given.
        labels: Ids of the labels that the network knows, by name.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ()  # class names in a folder's model_index.json
    components: ClassVar[Mapping[str, object]] = {}  # arguments of diffusers' from_pretrained; None: not loaded
    has_null = True
    labels: Mapping[str, int] = {}
    pass_bytes = 2**30  # of one slot in the denoiser without a graph; adapters say what their network needs

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
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name or f"{type(pipeline).__name__} object"
        self.pipeline, self._blocks = pipeline, dict(blocks)
        # a module under torch.compile is used without it: it would not call the hooks that are set later
        self.denoiser, self._vae = denoiser, first_stage = uncompiled(denoiser), uncompiled(first_stage)
        self._scheduler: SchedulerMixin = pipeline.scheduler
        for module in (denoiser, first_stage):
            if module is not None:
                module.eval().requires_grad_(False)
        self._predicts = check_schedule(self.name, self._scheduler)
        channels, predicted = denoiser.config.in_channels, denoiser.config.out_channels
        if predicted not in (channels, 2 * channels):
            raise OptionError(
                f"{self.name}: expected a network with as many output as input channels, or twice as many, got "
                f"{channels} and {predicted}; networks for inpainting and the like need other conditions"
            )
        side = square_side(self.name, size)
        image_channels, scale = image_scale(self.name, first_stage) if first_stage is not None else (channels, 1)
        self.latent_shape = (channels, side, side)
        self.image_shape = (image_channels, side * scale, side * scale)
        self.block_names = tuple(self._blocks)
        self.recommended = dict(recommended or {})
        self.device: torch.device = pipeline._execution_device  # not where offloaded modules wait
        # of quantised weights, that in which it computes
        self.dtype: torch.dtype = denoiser.dtype if denoiser.dtype.is_floating_point else torch.float32
        self.vae_dtype = None if first_stage is None else first_stage.dtype
        self.license = pipeline_folder.licence_of(pipeline.name_or_path)
        self._sha256: str | None = None  # of weights that were converted: their hash before
        self._origin: Origin | None = None
        self._hashed: tuple[str, str] | None = None  # a probe of the weights, and their hash
        self._set_sampling(learned_variance, guided_channels)

    @classmethod
    @own_torch_state()
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        vae_dtype: str | torch.dtype = torch.float32,
        name: str | None = None,
        use_safetensors: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> Self:
        """Loads a pipeline's folder or hub id through diffusers.

        Args:
            id_or_path: A folder, or a hub id such as "facebook/DiT-XL-2-256".
            device: Where to put it; the GPU if there is one.
            dtype: In which the networks compute.
            vae_dtype: In which the first stage computes: in half precision it loses grey levels, or overflows.
            name: Name of the prior in the manifest; ``id_or_path`` if left out.
            variant: Which weights to read, "fp16" for ``diffusion_pytorch_model.fp16.safetensors``; None: the plain
                ones, or the variant of a folder that has no plain ones.
            use_safetensors: False reads pickled weights where there are no others; a pickle can run code of the person
                who made it.
            subfolder: Folder below ``id_or_path`` that holds the pipeline.
            revision: Branch, tag or commit of a hub id; None: its main branch.
            token: The hub's token, which gated models need; None: that of ``hf auth login`` or $HF_TOKEN.
            options: Options of the class, such as ``learned_variance``.

        Raises:
            SourceError: The folder or the hub id cannot be loaded, or needs code of its own.
            OptionError: There is no such device or dtype, or an option is wrong.
        """
        device, dtype = resolve_device(device), named_dtype(dtype)
        vae_dtype = named_dtype(vae_dtype, option="vae_dtype")
        files = Files(id_or_path, use_safetensors, variant, subfolder, revision, token)
        kind = pipeline_folder.pipeline_type(files)
        if kind not in cls.pipeline_types:
            raise SourceError(f"prior {str(id_or_path)!r}: holds a {kind}, expected {' or '.join(cls.pipeline_types)}")
        pipeline, recommended, states = pipeline_folder.load_pipeline(files, kind, cls.components)
        prior = cls(pipeline.to(device), name=name or str(id_or_path), recommended=recommended, **options)
        loading = [cls.__module__, cls.__qualname__, kind, files.variant, files.use_safetensors]
        if not prior._learned_tensors():
            prior.loaded_from(states, loading)
        prior.convert(dtype, vae_dtype)
        return prior

    def loaded_from(self, files: FileStates, loading: Sequence[object]) -> None:
        """Keep the hash of the weights in the cache, beside the states of the files that they were loaded from.

        Args:
            files: The states from before they were read.
            loading: What else the weights depend on, as JSON.
        """
        self._origin = Origin(files, loading, self._fingerprint(probe=True))

    def convert(self, dtype: torch.dtype, vae_dtype: torch.dtype) -> None:
        """Convert the networks, in place; the prior's hash stays that of its weights before.

        Args:
            dtype: In which denoiser and text encoder compute.
            vae_dtype: In which the first stage computes.
        """
        if (dtype, vae_dtype) == (torch.float32, torch.float32):
            return  # as they are loaded
        self._sha256 = str(self.describe()["sha256"])
        for network in self._networks():
            nn.Module.to(network, vae_dtype if network is self._vae else dtype)  # diffusers' own logs a warning
        self.pass_bytes = self.pass_bytes * dtype.itemsize // self.dtype.itemsize
        self.dtype, self.vae_dtype = dtype, None if self._vae is None else vae_dtype

    def with_sampling(self, *, learned_variance: bool | None = None, guided_channels: int | None = None) -> Self:
        """See :meth:`dap.priors.base.Prior.with_sampling`; the networks are shared."""
        prior = copy.copy(self)
        prior._set_sampling(
            self.learned_variance if learned_variance is None else learned_variance,
            guided_channels or self.guided_channels,
        )
        return prior

    def _set_sampling(self, learned_variance: bool, guided_channels: int | None) -> None:
        channels, predicted = self.denoiser.config.in_channels, self.denoiser.config.out_channels
        if learned_variance and predicted != 2 * channels:
            raise OptionError(f"{self.name}: learned_variance needs {2 * channels} output channels, got {predicted}")
        if guided_channels is not None and not 1 <= guided_channels <= channels:
            raise OptionError(f"guided_channels: expected 1 to {channels}, got {guided_channels}")
        self.learned_variance, self.guided_channels = learned_variance, guided_channels

    @property
    def blocks(self) -> Mapping[str, nn.Module]:
        """The denoiser's blocks by name, in the order in which they run."""
        return self._blocks

    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """See :meth:`dap.priors.base.Prior.labels_of`."""
        return self.labels

    def describe(self) -> dict[str, object]:
        """Return name, options, and the SHA-256 of the weights and configurations of all networks and the scheduler."""
        return {
            "name": self.name,
            "learned_variance": self.learned_variance,
            "guided_channels": self.guided_channels,
            "sha256": self._sha256 or self._hash(),
        }

    def _hash(self) -> str:
        """Return the hash of the weights, which is computed again only if they were changed."""
        probe = self._fingerprint(probe=True)
        if self._hashed is None or self._hashed[0] != probe:
            origin = self._origin
            self._hashed = probe, origin.hash(probe, self._fingerprint) if origin else self._fingerprint()
        return self._hashed[1]

    def _fingerprint(self, *, probe: bool = False) -> str:
        return fingerprint(self._scheduler, self._networks(), self._learned_tensors(), probe=probe)

    @property
    def image_bytes(self) -> ImageBytes:
        """See :meth:`dap.priors.base.Prior.image_bytes`."""
        channels, side, _ = self.image_shape
        if self._vae is None:
            pixels = 4 * 4 * channels * side * side
            return ImageBytes(pixels, pixels, pixels, self.pass_bytes)
        config = self._vae.config
        first_stage = first_stage_bytes(
            side, self._vae.dtype.itemsize, widths=config.block_out_channels, layers=config.get("layers_per_block") or 1
        )
        return ImageBytes(*first_stage, self.pass_bytes)

    @property
    def weight_bytes(self) -> int:
        """See :meth:`dap.priors.base.Prior.weight_bytes`."""
        return sum(tensor_bytes(network) for network in self._networks())

    def step_bytes(self, demand: Demand, *, guidance_scale: float) -> StepBytes:
        """See :meth:`dap.priors.base.Prior.step_bytes`; measured by :mod:`dap.priors.memory`."""
        return measure_step(self, demand, guidance_scale)

    def without_data(self) -> Self:
        """See :meth:`dap.priors.base.Prior.without_data`."""
        paths = {id(module): path for path, module in self.denoiser.named_modules()}
        prior = copy.copy(self)
        prior.denoiser = without_data(self.denoiser)
        prior._vae = None if self._vae is None else without_data(self._vae)
        prior._blocks = {name: prior.denoiser.get_submodule(paths[id(block)]) for name, block in self._blocks.items()}
        prior.device, prior._predicts = torch.device("meta"), "epsilon"  # noise levels of v have values
        return prior

    def _networks(self) -> list[ModelMixin]:
        return [module for module in (self.denoiser, self._vae) if module is not None]

    def _learned_tensors(self) -> Mapping[str, Tensor]:
        """Return tensors that were learned later, by name; they are part of the hash."""
        return {}

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
        return make_scheduler(
            self._scheduler, name, num_inference_steps, device=self.device, learned_variance=self.learned_variance
        )

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
        with network_lock(self.denoiser), tapped(self._blocks, taps, cut=not through) as features:
            conditional = self._run(sample, timestep, labels, condition)
        channels = self.latent_shape[0]
        output, labelled = conditional[:, :channels], None
        if guidance_scale != 1:
            labelled = output
            guided = self.guided_channels or channels
            with network_lock(self.denoiser), torch.set_grad_enabled(through and torch.is_grad_enabled()):
                null = self._run(sample, timestep, None, None)[:, :guided]
            output = torch.cat([null + guidance_scale * (output[:, :guided] - null), output[:, guided:]], dim=1)
        if self._predicts == "v_prediction":  # Salimans and Ho, 2022: v = α ε − σ x_0
            levels = denoiser_level(self._scheduler, timestep.to(self.device), sigma)
            alpha_t, sigma_t = (level.view(-1, 1, 1, 1) for level in levels)
            noised = sigma_t * (sample if through else sample.detach())
            output = alpha_t * output + noised
            labelled = None if labelled is None else alpha_t * labelled + noised
        return Prediction(output, conditional[:, channels:] if self.learned_variance else None, features, labelled)

    @own_torch_state()
    @torch.no_grad()
    def features(self, sample: Tensor, timestep: Tensor, labels: Tensor, block: int) -> Tensor:
        """See :meth:`dap.priors.base.Prior.features`."""
        with network_lock(self.denoiser), stopped_at(self._blocks, block) as features:
            self._run(sample, timestep, labels, None)
        return features[block]

    def _run(self, sample: Tensor, timestep: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        timesteps = timestep.to(self.device).expand(len(sample))
        condition = None if condition is None else condition.to(self.device, self.dtype)
        return self._forward(sample.to(self.dtype), timesteps, labels, condition).float()

    @abstractmethod
    def _forward(self, sample: Tensor, timesteps: Tensor, labels: Tensor | None, condition: Tensor | None) -> Tensor:
        """Return the network's output (B, channels, h, w) for x_t in the network's dtype and a timestep for each slot.

        ``labels`` None is the null condition; ``condition``, if not None, is used in place of that of the labels.
        """
