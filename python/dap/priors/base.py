"""The base class of priors: the one place that knows which kind of network denoises.

Maths, with ᾱ_t the scheduler's cumulative product: x_t = α_t x_0 + σ_t ε, α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t).
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dap.errors import DivergedError, OptionError
from dap.priors.batches import Batches, ImageBytes, first_stage_bytes
from dap.priors.demand import Demand, StepBytes
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin
    from torch import Tensor

__all__ = ["Prediction", "Prior"]

T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """Result of one evaluation of the denoiser.

    Attributes:
        eps: The noise estimate after classifier-free guidance, float32 with shape (B, C, h, w).
        variance: The learned interpolation values of the variance, of the same shape, or None.
        features: Hidden tokens of the conditional pass, (B, T, D) in the model's dtype, by number of the block.
        conditional: The noise estimate under the label, before classifier-free guidance, (B, C, h, w); None if it is
            ``eps``, or if the prior does not say.
        x0: The estimate of x_0, (B, C, h, w), of flow matching, since at pure noise ``eps`` does not tell it; or None.
        x0_conditional: That under the label, before classifier-free guidance; None if it is ``x0``.
    """

    eps: Tensor
    variance: Tensor | None
    features: Mapping[int, Tensor]
    conditional: Tensor | None = None
    x0: Tensor | None = None
    x0_conditional: Tensor | None = None


class _Checked(ABCMeta):
    """Metaclass that checks every prior when it has been constructed."""

    def __call__(cls: type[T], *args: object, **kwargs: object) -> T:
        missing = sorted(cls.__abstractmethods__)  # type: ignore[attr-defined]
        if missing:
            raise OptionError(f"prior {cls.__name__}: lacks {', '.join(missing)}; see dap.priors.Prior")
        prior: T = type.__call__(cls, *args, **kwargs)
        _check_attributes(prior)
        return prior


class Prior(metaclass=_Checked):
    """A frozen diffusion model: first stage, denoiser and noise schedule.

    Subclass it to use a model that dap does not know. A subclass sets the attributes without a default in its
    ``__init__`` or its body and implements the abstract methods; constructing it raises
    :class:`dap.errors.OptionError` with the name of what is missing or has the wrong type.

    Attributes:
        name: Name of the prior in the manifest.
        latent_shape: (C, h, w) of a latent.
        image_shape: (channels, height, width) of an image.
        block_names: Names of the blocks that can be tapped, in the order in which they run; counted from 1.
        device: Where the networks live.
        dtype: The denoiser's dtype.
        has_null: Whether there is a null condition, which classifier-free guidance needs. Default False.
        recommended: Settings that the prior's folder recommends (``dap_prior.json``); see :mod:`dap.sampling.settings`.
            Default none.
        vae_dtype: The first stage's dtype. Default None: there is no first stage, or it has the denoiser's.
        learned_variance: Whether :meth:`denoise` returns a variance. Default False.
        guided_channels: How many latent channels classifier-free guidance acts on. Default None: on all.
        license: The licence of the weights, such as "mit". Default None: it is not known.
        condition_shape: Shape of the condition that stands for a label inside the network: (tables, D) of class
            embeddings, of which a DiT has one in each block, (tokens, D) of text. Default None: no condition.
        ambiguous: Names, in lower case, that stand for several labels, so that :meth:`labels_of` does not have them.
            Default none.
        slot_bytes: Rough memory in bytes that one slot takes in a step, where :meth:`step_bytes` is not overridden.
            Default 1 GiB.
    """

    name: str
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    block_names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    has_null: bool = False
    recommended: Mapping[str, Any] = {}  # values of JSON
    vae_dtype: torch.dtype | None = None
    learned_variance: bool = False
    guided_channels: int | None = None
    license: str | None = None
    condition_shape: tuple[int, int] | None = None
    ambiguous: Mapping[str, tuple[int, ...]] = {}
    slot_bytes: int = 2**30

    def __repr__(self) -> str:
        image, dtype = "x".join(map(str, self.image_shape)), str(self.dtype).removeprefix("torch.")
        blocks = f"{len(self.block_names)} blocks, " if self.block_names else ""
        return f"{type(self).__name__}({self.name!r}, images of {image}, {blocks}{dtype}, {str(self.device)!r})"

    @property
    def image_bytes(self) -> ImageBytes:
        """The memory of one image in the networks, a function of their shapes and data type alone.

        The default guesses a first stage like Stable Diffusion's in float32.
        """
        return ImageBytes(*first_stage_bytes(self.image_shape[1], 4), self.slot_bytes)

    @property
    def batches(self) -> Batches:
        """How many images go through the networks at once; see :mod:`dap.priors.batches`."""
        return Batches.of(self.image_bytes)

    @property
    def encoding_bytes(self) -> int:
        """The memory while real images are encoded, and while their features are computed, whichever is more."""
        image, batches = self.image_bytes, self.batches
        return max(batches.encode * image.encode, batches.features * image.features)

    @property
    def weight_bytes(self) -> int:
        """The memory of the weights in bytes; 0 if it is not known."""
        return 0

    def step_bytes(self, demand: Demand, *, guidance_scale: float) -> StepBytes:
        """Return the memory of a step of sampling; the default takes ``slot_bytes`` for each slot.

        Args:
            demand: What the method needs beside the noise estimate.
            guidance_scale: The scale of classifier-free guidance.
        """
        return StepBytes(demand.fixed, self.slot_bytes + demand.own)

    def without_data(self) -> Self:
        """Return a copy on torch's meta device, for shapes and memory; the default returns the prior itself."""
        return self

    def for_classes(self, class_names: Sequence[str]) -> Self:
        """Return a prior that can make images of these classes; the networks are shared.

        The default returns the prior itself, which suits a prior whose labels are fixed. A prior under text returns one
        that knows the prompts of these classes too.
        """
        return self

    def with_sampling(self, *, learned_variance: bool | None = None, guided_channels: int | None = None) -> Self:
        """Return a prior that samples with other values of these attributes; None: as it is.

        Raises:
            OptionError: The network predicts no variance, or the prior cannot change.
        """
        raise OptionError(f"{self.name}: has no other learned_variance and guided_channels than its own")

    @abstractmethod
    def labels_of(self, class_names: Sequence[str]) -> Mapping[str, int]:
        """Return label names that the prior knows, each with its id; several names may share an id.

        A query: it changes nothing. A prior that takes text, or no condition, knows every name that it is asked for;
        its labels can be used with ``for_classes(class_names)``. The id of a name does not depend on the other names.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return what the manifest records: name, options, and ``sha256``, the hash of weights and configuration."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return latents (mean of the posterior, scaled), float32 (B, C, h, w), of uint8 images (B, channels, H, W)."""

    @own_torch_state()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images, uint8 (B, channels, H, W) on the CPU, of latents with shape (B, C, h, w).

        ``batches.decode`` latents are decoded at once.

        Raises:
            DivergedError: A pixel is infinite or not a number.
        """
        import torch

        images = []
        with torch.no_grad():
            for part in latents.split(self.batches.decode):
                pixels = self.decode_pixels(part)
                if not torch.isfinite(pixels).all():
                    raise DivergedError(f"{self.name}: the decoder gives pixels that are not finite, instead of images")
                images.append((pixels * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8).cpu())
        return torch.cat(images)

    def decode_with_graph(self, latents: Tensor) -> Tensor:
        """Return :meth:`decode_pixels` of latents with the graph to them, in parts that fit the memory.

        If there is more than one part of ``batches.decode_graph`` latents, the decoder's graph is not kept: the
        backward pass decodes each part again.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        together = self.batches.decode_graph
        if len(latents) <= together or not torch.is_grad_enabled():
            return self.decode_pixels(latents)
        return torch.cat([
            checkpoint(self.decode_pixels, part, use_reentrant=False, preserve_rng_state=False)
            for part in latents.split(together)
        ])  # fmt: skip

    @abstractmethod
    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Return the decoder's output before rounding: float32 (B, channels, H, W), black at −1 and white at 1.

        It is not clipped, stays on the prior's device, and with gradients enabled carries the graph to ``latents``.
        """

    @abstractmethod
    def scheduler(self, name: str | None, num_inference_steps: int) -> SchedulerMixin:
        """Return a fresh diffusers scheduler with its steps set, for noise estimates; by name, or the prior's own."""

    def noise_schedule(self) -> SchedulerMixin:
        """Return a scheduler that tells the noise level of each timestep; its steps are not those of a run."""
        return self.scheduler("ddpm", 1)

    @abstractmethod
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
        """Evaluate the denoiser once.

        With gradients enabled, the graph from ``sample`` reaches the tapped blocks and ends at the deepest of them,
        unless ``through`` is set: then it reaches ``eps``.

        Args:
            sample: x_t, (B, C, h, w), already scaled for the model.
            timestep: One for all slots, or one for each.
            labels: int64 (B,), ids from :meth:`labels_of`.
            guidance_scale: Classifier-free guidance ε_null + s (ε_label − ε_null); 1: the conditional estimate alone.
            taps: Numbers of the blocks whose features are returned.
            through: Keep the graph through the whole network.
            condition: (B, *condition_shape), used in place of the labels' condition; with ``through`` the graph
                reaches it too.
            sigma: σ_t / α_t of ``sample`` where it is not that of the timestep, as with Karras' spacing of the steps;
                None: that of the timestep.
        """

    def condition(self, labels: Tensor) -> Tensor:
        """Return the condition that stands for each label, float32 (B, *condition_shape).

        Raises:
            OptionError: The network has no condition.
        """
        raise OptionError(f"{self.name}: has no condition for a label")

    def features(self, sample: Tensor, timestep: Tensor, labels: Tensor, block: int) -> Tensor:
        """Return tokens (B, T, D) after one block for x_t; a subclass may stop the network behind that block."""
        import torch

        with torch.no_grad():
            return self.denoise(sample, timestep, labels, taps=[block]).features[block]


def _check_attributes(prior: object) -> None:
    """Raise unless every attribute of :class:`Prior` is there and has its type."""
    import torch

    types: dict[str, type] = {
        "name": str, "latent_shape": tuple, "image_shape": tuple, "block_names": tuple, "slot_bytes": int,
        "device": torch.device, "dtype": torch.dtype, "has_null": bool, "recommended": Mapping,
        "condition_shape": tuple,
    }  # fmt: skip
    lengths = {"latent_shape": 3, "image_shape": 3, "condition_shape": 2}
    for name, kind in types.items():
        if not hasattr(prior, name):
            raise OptionError(f"prior {type(prior).__name__}: lacks {name} ({kind.__name__}); see dap.priors.Prior")
        value = getattr(prior, name)
        if name == "condition_shape" and value is None:
            continue
        if not isinstance(value, kind):
            raise OptionError(f"prior {type(prior).__name__}: expected {name} to be a {kind.__name__}, got {value!r}")
        if isinstance(value, tuple) and name in lengths and [type(number) for number in value] != [int] * lengths[name]:
            raise OptionError(f"prior {type(prior).__name__}: expected {lengths[name]} ints for {name}, got {value!r}")
