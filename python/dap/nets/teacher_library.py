"""Teachers of other programs: models of torchvision and timm by name, and files of weights.

The order of a network's outputs is not in such a file. It is ImageNet's, if there are 1,000, or the order of the set's
classes, unless the user names the classes (:func:`dap.nets.teacher.output_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dap import rng
from dap.errors import FormatError, OptionError, SourceError
from dap.nets.network import LibraryNetwork
from dap.nets.register import check_network, create_net
from dap.nets.teacher import Teacher
from dap.registry import unknown_name_error

__all__ = ["TIMM", "TORCHVISION", "load", "plain_teacher", "read_state", "timm_teacher", "torchvision_teacher"]

TIMM, TORCHVISION = "timm/", "torchvision/"
WEIGHTS = "IMAGENET1K_V1"  # those of torchvision that the literature takes


def plain_teacher(path: Path, network: str, size: int, class_names: Sequence[str] | None) -> Teacher:
    """Return the network of another program's weights."""
    check_network(network)
    state = read_state(path)

    def build(channels: int, classes: int) -> nn.Module:
        generator = rng.generator("teacher")
        net: nn.Module = create_net(
            network, channels=channels, classes=classes, size=size, generator=generator, norm="batch"
        )
        return (
            net.net if isinstance(net, LibraryNetwork) and not any(name.startswith("net.") for name in state) else net
        )

    return _teacher(_built(build, state, path, network), path.name, state, size, class_names)


def torchvision_teacher(
    where: str, weights: Path | None, size: int | None, class_names: Sequence[str] | None
) -> Teacher:
    """Return a model of torchvision, ``torchvision/NAME``, with its ImageNet weights or those of a file."""
    import torchvision

    name = where.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name_error("teacher", where, [TORCHVISION + model for model in known])
    if weights is None:
        net = _downloaded(where, lambda: torchvision.models.get_model(name, weights=WEIGHTS))
        return _teacher(net, where, net.state_dict(), size or 224, class_names)
    state = read_state(weights)

    def build(channels: int, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return model

    return _teacher(_built(build, state, weights, where), where, state, size or 224, class_names)


def timm_teacher(where: str, weights: Path | None, size: int | None, class_names: Sequence[str] | None) -> Teacher:
    """Return a model of timm, ``timm/NAME``, with its pretrained weights or those of a file."""
    import timm
    from timm.data import resolve_data_config

    from dap.priors.timm_download import check_download

    name = where.removeprefix(TIMM)
    if not timm.is_model(name):
        raise unknown_name_error("teacher", where, [TIMM + model for model in timm.list_models()])
    options = {} if size is None else {"img_size": size}

    def build(channels: int, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            try:
                model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=channels, **options)
            except TypeError:  # a model of any size
                model = timm.create_model(name, num_classes=classes, in_chans=channels)
        return model

    if weights is None:

        def download() -> nn.Module:
            check_download(name)
            model: nn.Module = timm.create_model(name, pretrained=True)
            return model

        net = _downloaded(where, download)
        state = net.state_dict()
    else:
        state = read_state(weights)
        net = _built(build, state, weights, where)
    config = resolve_data_config(options, model=net)
    return _teacher(
        net, where, state, size or int(config["input_size"][-1]), class_names, config["mean"], config["std"]
    )


def _teacher(
    net: nn.Module, name: str, state: Mapping[str, Tensor], size: int, class_names: Sequence[str] | None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
) -> Teacher:  # fmt: skip
    channels, outputs = _channels(state), _last_layer(net).out_features
    if class_names is not None and len(class_names) != outputs:
        raise OptionError(f"teacher {name}: expected the names of its {outputs} classes, got {len(class_names)}")
    values = (None, None) if mean is None or std is None else (tuple(mean)[:channels], tuple(std)[:channels])
    return Teacher(
        net, name=name, outputs=outputs, class_names=class_names, channels=channels, size=size,
        mean=values[0], std=values[1],
    )  # fmt: skip


def _downloaded(where: str, download: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return download()
    except Exception as error:  # libraries and their hub clients raise errors of many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise OptionError(
            f"teacher {where}: its weights cannot be downloaded ({type(error).__name__}: {reason}); give them as a "
            "file, teacher_options={'weights': 'model.safetensors'}, or --weights of dap teacher check"
        ) from error


def _built(build: Callable[[int, int], nn.Module], state: Mapping[str, Tensor], path: Path, network: str) -> nn.Module:
    """Return a network with the channels and classes of some weights, with these weights."""
    sample = build(3, 2)
    name = next(name for name, layer in sample.named_modules() if layer is _last_layer(sample))
    head = state.get(f"{name}.weight")
    if head is None or head.ndim != 2:
        raise FormatError(f"{path}: has no weights of {network}: no tensor {name}.weight with two dimensions")
    net = build(_channels(state), len(head))
    load(net, state, path, network)
    return net


def _last_layer(net: nn.Module) -> nn.Linear:
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise OptionError(f"teacher: {type(net).__name__} has no linear layer at its end; take another network")
    return layers[-1]


def _channels(state: Mapping[str, Tensor]) -> int:
    """Return the channels of the images: those of the first convolution, else 3."""
    return next((value.shape[1] for value in state.values() if value.ndim == 4), 3)


def load(net: nn.Module, state: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Load weights into a network, or raise FormatError."""
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"{path}: not the weights of {network} ({reason})") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a ``.pt``, of which no code is run, by name."""
    if not path.is_file():
        raise SourceError(f"weights: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a file that is none of its own has many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FormatError(f"{path}: neither safetensors nor a .pt of tensors ({reason})") from error
    for name in ("model", "state_dict"):  # as RDED, torchvision's references and timm write them
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise FormatError(f"{path}: expected a state_dict, tensors by name; got {type(content).__name__}")
    return {str(name).removeprefix("module."): value for name, value in content.items()}
