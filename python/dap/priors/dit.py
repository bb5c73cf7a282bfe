"""The adapter to diffusers' ``DiTPipeline`` (Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline, DPMSolverMultistepScheduler
from torch import Tensor, nn

from dap.device import resolve_device
from dap.errors import OptionError, SourceError
from dap.priors.base import Prediction
from dap.registry import unknown_name

__all__ = ["DiTPrior"]

SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}


class DiTPrior:
    """A class-conditional DiT as a prior; see :class:`dap.priors.base.Prior` for the attributes.

    Args:
        pipeline: A ``DiTPipeline``. Its modules are used as they are, in eval mode and frozen, never changed.
        name: What the manifest calls it.
        learned_variance: Use the variance that a network with twice the channels predicts (IDDPM's learned range), as
            the DiT repository samples. Off, as in ``DiTPipeline``, the extra channels are dropped.
        guided_channels: Apply classifier-free guidance to the first so many latent channels only. The DiT repository
            and its descendants guide 3 of 4; the others keep the conditional value. None guides all.
        recommended: Settings for sampling, as in ``dap_prior.json``.
    """

    def __init__(
        self,
        pipeline: DiTPipeline,
        *,
        name: str = "DiTPipeline object",
        learned_variance: bool = False,
        guided_channels: int | None = None,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        self._transformer: Any = pipeline.transformer.eval().requires_grad_(False)
        self._vae: Any = pipeline.vae.eval().requires_grad_(False)
        self._scheduler: Any = pipeline.scheduler
        config = self._transformer.config
        if self._scheduler.config.prediction_type != "epsilon":
            raise OptionError(
                f"{name}: expected a DiT that predicts epsilon, got {self._scheduler.config.prediction_type}"
            )
        self.name = name
        self.labels: Mapping[str, int] = _unambiguous_labels(pipeline)
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        scale = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.image_shape = (self._vae.config.in_channels, config.sample_size * scale, config.sample_size * scale)
        self.num_blocks = len(self._transformer.transformer_blocks)
        self.recommended: Mapping[str, Any] = dict(recommended or {})
        tokens = (config.sample_size // config.patch_size) ** 2
        width = config.num_attention_heads * config.attention_head_dim
        # about 40 activations of each token's width are kept for the backward pass through a block
        self.slot_bytes = 40 * self.num_blocks * tokens * width * self._transformer.dtype.itemsize
        self.device = self._transformer.device
        self.dtype = self._transformer.dtype
        self._null_label = config.num_embeds_ada_norm
        self._learned_variance = learned_variance
        self._guided_channels = guided_channels
        predicts_variance = config.out_channels == 2 * config.in_channels
        if learned_variance and not predicts_variance:
            raise OptionError(
                f"{name}: learned_variance needs {2 * config.in_channels} output channels, got {config.out_channels}"
            )
        if guided_channels is not None and not 1 <= guided_channels <= config.in_channels:
            raise OptionError(f"guided_channels: expected 1 to {config.in_channels}, got {guided_channels}")

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        learned_variance: bool = False,
        guided_channels: int | None = None,
        name: str | None = None,
    ) -> DiTPrior:
        """Loads a ``DiTPipeline`` folder or hub id through diffusers; safetensors only.

        Args:
            id_or_path: A folder, or a hub id such as "facebook/DiT-XL-2-256".
            device: Where to put it; the GPU if there is one.
            dtype: Of the weights in memory.
            learned_variance: See the class.
            guided_channels: See the class.
            name: What the manifest calls it; ``id_or_path`` if left out.

        Raises:
            SourceError: The folder or the hub id cannot be loaded.
        """
        settings = Path(id_or_path) / "dap_prior.json"
        try:
            pipeline = DiTPipeline.from_pretrained(str(id_or_path), use_safetensors=True, low_cpu_mem_usage=False)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SourceError(
                f"prior {str(id_or_path)!r}: no DiTPipeline folder or reachable hub id ({reason})"
            ) from error
        try:
            recommended = json.loads(settings.read_text()) if settings.is_file() else None
        except ValueError as error:
            raise SourceError(f"{settings}: expected JSON with recommended settings ({error})") from error
        device = resolve_device(device)
        return cls(
            pipeline.to(device) if dtype == torch.float32 else pipeline.to(device, dtype),
            name=name or str(id_or_path),
            learned_variance=learned_variance,
            guided_channels=guided_channels,
            recommended=recommended,
        )

    def describe(self) -> dict[str, Any]:
        """Name, options, and the SHA-256 of the weights and configurations of transformer, VAE and scheduler."""
        digest = hashlib.sha256(json.dumps(_public(self._scheduler.config), sort_keys=True, default=str).encode())
        for module in (self._transformer, self._vae):
            digest.update(json.dumps(_public(module.config), sort_keys=True, default=str).encode())
            for key, value in sorted(module.state_dict().items()):
                digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
        return {
            "name": self.name,
            "learned_variance": self._learned_variance,
            "guided_channels": self._guided_channels,
            "sha256": digest.hexdigest(),
        }

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """See :meth:`dap.priors.base.Prior.encode`."""
        pixels = images.to(self.device, self._vae.dtype) / 127.5 - 1
        latents: Tensor = self._vae.encode(pixels).latent_dist.mean * self._vae.config.scaling_factor
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See :meth:`dap.priors.base.Prior.decode`."""
        return (self.decode_pixels(latents) * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).cpu()

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """See :meth:`dap.priors.base.Prior.decode_pixels`."""
        pixels: Tensor = self._vae.decode(
            latents.to(self.device, self._vae.dtype) / self._vae.config.scaling_factor
        ).sample
        return pixels.float()

    def scheduler(self, name: str | None, num_inference_steps: int) -> Any:
        """See :meth:`dap.priors.base.Prior.scheduler`."""
        if name is not None and name not in SCHEDULERS:
            raise unknown_name("scheduler", name, SCHEDULERS)
        kind = SCHEDULERS[name] if name else type(self._scheduler)
        config = self._scheduler.config
        # DPM-Solver++ cannot take every step of the schedule
        longest = config.num_train_timesteps - (kind is DPMSolverMultistepScheduler)
        if num_inference_steps > longest:
            raise OptionError(
                f"num_inference_steps: {kind.__name__} takes at most {longest} here, got {num_inference_steps}"
            )
        overrides: dict[str, Any] = {}
        if kind is DPMSolverMultistepScheduler:
            # It would cut the latents to three channels where it reads a learned variance, and it cannot clip x0:
            # with the squared-cosine schedule the log-SNR of the first steps has to be bounded instead.
            overrides = {"variance_type": None, "algorithm_type": "dpmsolver++"}
            if config.beta_schedule == "squaredcos_cap_v2":
                overrides["lambda_min_clipped"] = -5.1
        if self._learned_variance and kind is not DDPMScheduler:
            raise OptionError(f"learned_variance needs scheduler='ddpm', got {kind.__name__}")
        if kind is DDPMScheduler:
            own = config.get("variance_type") or "fixed_small"
            fixed = "fixed_small" if own.startswith("learned") else own
            overrides = {"variance_type": "learned_range" if self._learned_variance else fixed}
        scheduler = kind.from_config(_public(config), **overrides)
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        return scheduler

    def denoise(
        self,
        sample: Tensor,
        timestep: Tensor,
        labels: Tensor,
        *,
        guidance_scale: float = 1.0,
        taps: Collection[int] = (),
        through: bool = False,
    ) -> Prediction:
        """See :meth:`dap.priors.base.Prior.denoise`.

        The conditional and the null pass run one after the other, so that only the former carries a graph.
        """
        with _tapped(self._transformer.transformer_blocks, taps, cut=not through) as features:
            conditional = self._forward(sample, timestep, labels)
        channels = self.latent_shape[0]
        eps = conditional[:, :channels]
        if guidance_scale != 1:
            guided = self._guided_channels or channels
            with torch.set_grad_enabled(through and torch.is_grad_enabled()):
                null = self._forward(sample, timestep, torch.full_like(labels, self._null_label))[:, :guided]
            eps = torch.cat([null + guidance_scale * (eps[:, :guided] - null), eps[:, guided:]], dim=1)
        return Prediction(eps, conditional[:, channels:] if self._learned_variance else None, features)

    @torch.no_grad()
    def features(self, sample: Tensor, timestep: Tensor, labels: Tensor, block: int) -> Tensor:
        """See :meth:`dap.priors.base.Prior.features`."""
        with _tapped(self._transformer.transformer_blocks, [block], stop=True) as features, suppress(_Stop):
            self._forward(sample, timestep, labels)
        return features[block]

    def _forward(self, sample: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        timesteps = timestep.to(self.device).expand(len(sample))
        output: Tensor = self._transformer(sample.to(self.dtype), timestep=timesteps, class_labels=labels).sample
        return output.float()


class _Stop(Exception):
    """Ends a forward pass at the tapped block."""


@contextmanager
def _tapped(
    blocks: nn.ModuleList, numbers: Collection[int], *, cut: bool = False, stop: bool = False
) -> Iterator[dict[int, Tensor]]:
    """Collects the output of blocks (counted from 1); ``cut`` hands a detached tensor on from the deepest one."""
    taken: dict[int, Tensor] = {}
    handles = []
    try:
        for number in numbers:
            if not 1 <= number <= len(blocks):
                raise OptionError(f"block: expected 1 to {len(blocks)}, got {number}")

            def hook(_module: nn.Module, _inputs: Any, output: Tensor, number: int = number) -> Tensor | None:
                taken[number] = output
                if stop:
                    raise _Stop
                return output.detach() if cut and number == max(numbers) else None

            handles.append(blocks[number - 1].register_forward_hook(hook))
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def _unambiguous_labels(pipeline: DiTPipeline) -> dict[str, int]:
    """Label names that lead to one id. ImageNet has two "crane"s, of which ``pipeline.labels`` silently keeps one."""
    ids: dict[str, set[int]] = {}
    for label, names in (pipeline.config.get("id2label") or {}).items():
        for name in names.split(","):
            ids.setdefault(name.strip(), set()).add(int(label))
    known = ids or {name: {label} for name, label in pipeline.labels.items()}
    return {name: labels.pop() for name, labels in known.items() if len(labels) == 1}


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without what depends on where and by which version it was saved."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
