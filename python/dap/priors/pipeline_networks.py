"""The networks of a pipeline: how they are loaded and converted, and the hash by which a prior is known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dap.device import fast_dtype, named_dtype, resolve_device
from dap.errors import SourceError
from dap.priors import pipeline_folder
from dap.priors.base import Prior
from dap.priors.fingerprint import Origin, fingerprint
from dap.priors.hub import Files
from dap.priors.memory import tensor_bytes
from dap.priors.options import check_options
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

    from dap.storage.file_states import FileStates

__all__ = ["PipelineNetworks"]

logger = logging.getLogger(__name__)


class PipelineNetworks(Prior):
    """The part of :class:`dap.priors.pipeline.PipelinePrior` that loads, converts and hashes its networks.

    Attributes:
        pipeline: The diffusers pipeline.
        denoiser: The network that denoises.
    """

    pipeline_types: ClassVar[tuple[str, ...]] = ()  # class names in a folder's model_index.json
    components: ClassVar[Mapping[str, object]] = {}  # arguments of diffusers' from_pretrained; None: not loaded
    pass_bytes = 2**30  # of one slot in the denoiser without a graph; adapters say what their network needs
    pipeline: DiffusionPipeline
    denoiser: ModelMixin
    vae_dtype: torch.dtype | None
    _vae: ModelMixin | None
    _scheduler: SchedulerMixin
    _sha256: str | None = None  # of weights that were converted: their hash before
    _origin: Origin | None = None
    _hashed: tuple[str, str] | None = None  # a probe of the weights, and their hash

    if TYPE_CHECKING:  # of every subclass

        def __init__(
            self,
            pipeline: DiffusionPipeline,
            *,
            name: str | None = None,
            recommended: Mapping[str, Any] | None = None,
            **options: Any,
        ) -> None: ...

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
        check_options(options)
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
        if self.device.type == "cpu" and dtype.itemsize < 4 and fast_dtype(self.device) == torch.float32:
            logger.warning(
                "%s: this CPU has no instructions for %s, which takes several times as long as float32; leave the "
                "dtype out unless the memory is short", self.name, str(dtype).removeprefix("torch."),
            )  # fmt: skip
        self._sha256 = str(self.describe()["sha256"])
        for network in self._networks():
            nn.Module.to(network, vae_dtype if network is self._vae else dtype)  # diffusers' own logs a warning
        self.pass_bytes = self.pass_bytes * dtype.itemsize // self.dtype.itemsize
        self.dtype, self.vae_dtype = dtype, None if self._vae is None else vae_dtype

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
    def weight_bytes(self) -> int:
        """See :meth:`dap.priors.base.Prior.weight_bytes`."""
        return sum(tensor_bytes(network) for network in self._networks())

    def _networks(self) -> list[ModelMixin]:
        return [module for module in (self.denoiser, self._vae) if module is not None]

    def _learned_tensors(self) -> Mapping[str, Tensor]:
        """Return tensors that were learned later, by name; they are part of the hash."""
        return {}
