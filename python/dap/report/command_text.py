"""The commands that made a run, from its manifest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from dap.config import to_json
from dap.data.appearance import in_words
from dap.data.builtin import BUILTIN, FASHION_CLASSES
from dap.data.classmap import NULL_LABELS, find_labels
from dap.data.manifest import counts_in
from dap.data.open import open_source
from dap.features.encoders import PixelEncoder
from dap.methods import METHODS
from dap.priors.label_names import imagenet_names
from dap.report.origin import are_real

__all__ = ["command_of"]

MOST_CLASSES = 50  # that a command names


def command_of(manifest: Mapping[str, Any], out: str = "distilled") -> str:
    """Return the ``dap distill`` that makes the images of a run, with the values that the run used.

    If images were made again, a line follows for each time, with ``--remake``.

    Options at the defaults of the method are left out, and size, channels and classes that are those of a built-in
    source. So are classes and labels of a run of more than 50 classes, which the manifest lists, and what it does not
    have: the folder of an index, files of weights, options of the prior, and encoders of one's own.

    Args:
        manifest: That of the run.
        out: The folder to write.
    """
    options, source = manifest["options"], manifest["source"]["name"]
    words = ["dap", "distill", source, "--out", out, *_method(options["method"]), *_ipc(manifest["ipc"])]
    words += ["--seed", str(options["seed"])]
    names = [entry["name"] for entry in manifest["class_map"]]
    if len(names) <= MOST_CLASSES and not (source in BUILTIN and list(open_source(source).class_names) == names):
        words += ["--classes", ",".join(names)]
    words += [*_prior(manifest), *_features(options.get("features", {})), *_shape(manifest)]
    for name, value in (options.get("sampling") or {}).items():
        if value is not None and not (name == "eta" and value == 0):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.get("dtype") not in (None, "torch.float32"):
        words += ["--dtype", options["dtype"].removeprefix("torch.")]
    words += ["--tf32"] if options.get("tf32") else []
    counts = dict(zip(names, counts_in(manifest), strict=True))
    again = [[*words, *_remake(slots, counts)] for slots in manifest.get("remade", ())]
    return "\n".join(map(shlex.join, [words, *again]))


def _method(method: Mapping[str, Any]) -> list[str]:
    name = str(method["name"])
    defaults = to_json(METHODS[name]()) if name in METHODS else {}
    changed = {key: value for key, value in method.items() if key != "name" and (key, value) not in defaults.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changed.items()}
    return ["--method", name, *(word for key, text in texts.items() for word in ("--set", f"{key}={text}"))]


def _ipc(ipc: int | Mapping[str, int]) -> list[str]:
    if isinstance(ipc, int):
        return ["--ipc", str(ipc)]
    return [word for name, count in ipc.items() for word in ("--ipc", f"{name}={count}")]


def _prior(manifest: Mapping[str, Any]) -> list[str]:
    """Return the prior, and the labels of classes that it would not find by their names."""
    prior, entries = manifest["prior"], manifest["class_map"]
    if prior is None:
        return []
    words = ["--prior", str(prior["name"])]
    if manifest.get("index") or "template" in prior or len(entries) > MOST_CLASSES:
        return words  # an index has the labels, and a prior under text has the names for labels
    names = [entry["name"] for entry in entries]
    fashion = {name: label for label, name in enumerate(FASHION_CLASSES)}
    known = find_labels(names, fashion if prior["name"] == "fashion-dit" else imagenet_names())
    for name, label in ((entry["name"], entry["prior_label"]) for entry in entries):
        if label not in (None, known[name]):
            words += ["--label", f"{name}={'' if label >= NULL_LABELS else label}"]
    return words


def _features(features: Mapping[str, Any]) -> list[str]:
    match features.get("name"):
        case "pixels":
            size = features["size"]
            return ["--features", "pixels", *_set(size, usual=PixelEncoder().size)]
        case "vae":
            return ["--prior", features["prior"]["name"], "--features", "vae"]
        case "timm":
            return ["--features", features["model"], *_set(features["input"]["input_size"][-1])]
    return []


def _remake(slots: Mapping[str, list[int]], counts: Mapping[str, int]) -> list[str]:
    """Return what names the images that were made again at one time."""
    named = [
        text
        for name, numbers in slots.items()
        for text in ([name] if len(numbers) == counts[name] else [f"{name}/{number}" for number in numbers])
    ]
    return [word for text in named for word in ("--remake", text)]


def _set(size: int, usual: int | None = None) -> list[str]:
    return [] if size == usual else ["--features-set", f"size={size}"]


def _shape(manifest: Mapping[str, Any]) -> list[str]:
    """Return size and channels of the images; the size not where it is the prior's, nor both for an index."""
    source, options = manifest["source"]["name"], manifest["options"]
    if manifest.get("index"):
        return []
    size, channels = options["size"] if manifest["prior"] is None or are_real(manifest) else None, options["channels"]
    if source in BUILTIN:
        usual = open_source(source).appearance
        size, channels = None if size == usual.size else size, None if channels == usual.channels else channels
    words = [] if size is None else ["--size", str(size)]
    return words if channels is None else [*words, "--channels", in_words(channels)]
