"""Models of timm as encoders: images through timm's own transform, features before the classifier.

The model's configuration says size, interpolation, crop, mean and standard deviation
(``timm.data.resolve_data_config``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from dap.config import check_path, check_whole
from dap.device import resolve_device
from dap.errors import OptionError
from dap.features.encoder import Encoder
from dap.priors.fingerprint import update_digest
from dap.priors.timm_download import check_download
from dap.registry import nearest

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["TimmEncoder"]


class _Loaded(NamedTuple):
    network: nn.Module
    transform: Callable[[Image.Image], Tensor]
    data_config: Mapping[str, object]


@dataclass(frozen=True)
class TimmEncoder(Encoder):
    """The pooled features of a model of timm; it is loaded when it is first used.

    Attributes:
        model: Name of the model: one of ``timm.list_models()``, with a tag such as ".lvd142m" for its weights, or
            "hf-hub:owner/name" or "local-dir:path".
        pretrained: Load weights, which timm downloads once. False: random weights, the same each time.
        weights: A safetensors file to load in place of the download.
        size: Side in pixels to which images are brought; None: the model's own.
        device: Where it runs; the GPU, if there is one, for None.

    Raises:
        OptionError: timm has no such model, or the file or device cannot be used.

    Example:
        >>> import dap
        >>> encoder = dap.features.Encoder("vit_small_patch14_dinov2.lvd142m", size=224)  # doctest: +SKIP
        >>> rows = encoder.rows(dap.open_source("path/to/train"))  # doctest: +SKIP
    """

    name: ClassVar[str] = "timm"
    batch_size: ClassVar[int] = 32

    model: str = "vit_small_patch14_dinov2.lvd142m"
    pretrained: bool = True
    weights: str | Path | None = None
    size: int | None = None
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        if ":" not in self.model and not timm.is_model(self.model):
            near = nearest(self.model, ["pixels", "vae", "prior", *timm.list_models()])
            raise OptionError(
                f"features: unknown {self.model!r}{f'; did you mean {near!r}?' if near else ';'} Expected pixels, vae, "
                "prior, or the name of a model that timm knows (timm.list_models())"
            )
        if self.size is not None:
            check_whole("size", self.size)
        if self.weights is not None:
            path = check_path("weights", self.weights)
            if ":" in self.model:
                raise OptionError(f"weights: {self.model!r} brings its own; leave them out")
            if path.suffix != ".safetensors" or not path.is_file():
                raise OptionError(f"weights: expected a .safetensors file, got {str(path)!r}")
        resolve_device(self.device)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # without the network

    @cached_property
    def _loaded(self) -> _Loaded:
        try:
            network = self._make()
        except Exception as error:  # timm and its hub client raise errors of many kinds
            reason = (str(error).strip().splitlines() or [""])[0]
            raise OptionError(
                f"features: timm cannot make {self.model!r} ({type(error).__name__}: {reason}). Without a network, "
                "give its weights as a file (features_options={'weights': 'model.safetensors'}), or take random ones "
                "(features_options={'pretrained': False})"
            ) from error
        config = resolve_data_config({} if self.size is None else {"img_size": self.size}, model=network)
        return _Loaded(network, create_transform(**config), json.loads(json.dumps(config)))

    def _make(self) -> nn.Module:
        if self.pretrained and self.weights is None:
            check_download(self.model)
        options: dict[str, Any] = {}
        known = None if ":" in self.model else timm.get_pretrained_cfg(self.model)
        if self.weights is not None and known is not None:
            classifiers = [known.classifier] if isinstance(known.classifier, str) else known.classifier or ()
            dropped = tuple(f"{classifier}." for classifier in classifiers)
            state = load_file(check_path("weights", self.weights))
            state = {key: value for key, value in state.items() if not key.startswith(dropped)}
            # without a classifier to drop, timm refuses a file that lacks a part of the network
            options["pretrained_cfg_overlay"] = {"state_dict": state, "classifier": None, "custom_load": False}
        if self.size is not None and known is not None and known.fixed_input_size:
            options["img_size"] = self.size
        with torch.random.fork_rng(devices=[]):  # timm draws initial weights from the global generator
            torch.default_generator.manual_seed(0)
            network: nn.Module = timm.create_model(
                self.model, pretrained=self.pretrained or self.weights is not None, num_classes=0, **options
            )
        return network.eval().requires_grad_(False).to(resolve_device(self.device))

    @cached_property
    def _description(self) -> Mapping[str, object]:
        digest = hashlib.sha256()
        for key, value in sorted(self._loaded.network.state_dict().items()):
            update_digest(digest, key, value)
        return {
            "name": self.name, "model": self.model, "input": self._loaded.data_config, "sha256": digest.hexdigest()
        }  # fmt: skip

    def describe(self) -> Mapping[str, object]:
        """Return the model's name, how images are brought to its input, and the hash of its weights."""
        return self._description

    def computed_by(self) -> list[str]:
        """Return the versions and the device."""
        return [version("torch"), version("timm"), resolve_device(self.device).type]

    @torch.no_grad()
    def encode(self, source: Source, indices: Sequence[int], *, label: int = 0) -> Tensor:
        """Return the pooled features; see :meth:`Encoder.encode`."""
        pictures = (Image.fromarray(source.pixels(index, channels=3).transpose(1, 2, 0)) for index in indices)
        images = torch.stack([self._loaded.transform(picture) for picture in pictures])
        features: Tensor = self._loaded.network(images.to(resolve_device(self.device)))
        return features.flatten(1).float().cpu()
