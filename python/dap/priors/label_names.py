"""The labels of a class-conditional pipeline by name, with ImageNet's ids and names for a network of 1,000 classes.

ImageNet names some classes alike: "crane" is a bird (134) and a machine (517), and "maillot" is both 638 and 639. Such
a name stands for no label. diffusers' ``pipeline.labels`` keeps the last of them, so ``model_index.json`` itself is
read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dap.errors import OptionError
from dap.priors.pipeline_folder import LABELS, label_names_of
from dap.storage.checked_json import check_shape

if TYPE_CHECKING:
    from diffusers import DiTPipeline

__all__ = ["WNID", "LabelNames", "imagenet_labels", "imagenet_names", "label_names"]

IMAGENET_CLASSES = 1000
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class LabelNames:
    """The names of a network's labels.

    Attributes:
        labels: The label of each name that stands for one. Every label has at least one name.
        ambiguous: The labels of each name, in lower case, that stands for several.
    """

    labels: Mapping[str, int]
    ambiguous: Mapping[str, tuple[int, ...]]


def imagenet_labels(count: int) -> dict[str, int]:
    """Return the label of each ImageNet wnid, its position among the sorted ones; none unless there are 1,000 classes.

    Example:
        >>> imagenet_labels(1000)["n01440764"], imagenet_labels(10)
        (0, {})
    """
    if count != IMAGENET_CLASSES:
        return {}
    from timm.data.imagenet_info import ImageNetInfo

    return {wnid: label for label, wnid in enumerate(sorted(ImageNetInfo("imagenet-1k").label_names()))}


def imagenet_names() -> dict[str, int]:
    """Return the label of each of ImageNet's wnids, descriptions and parts of them, if only one label has it.

    Example:
        >>> names = imagenet_names()
        >>> names["n01440764"], names["tench"], names["tench, Tinca tinca"], "crane" in names
        (0, 0, 0, False)
    """
    wnids = imagenet_labels(IMAGENET_CLASSES)
    by_name = _by_name(_imagenet_descriptions(wnids))
    return {name: min(found) for name, found in by_name.items() if len(found) == 1} | wnids


def label_names(prior: str, pipeline: DiTPipeline, count: int) -> LabelNames:
    """Return the names of a pipeline's labels.

    A label's names are its description ("tench, Tinca tinca") and the description's parts. A pipeline that describes
    all of 1,000 labels, or none, or has only names of ImageNet's, has the wnids too, and ImageNet's descriptions if it
    has none. A label without a name of its own has its number as a name; all have, if nothing is described.

    Args:
        prior: Name of the prior, for errors.
        pipeline: The pipeline, an object or loaded from a folder.
        count: Number of the network's labels.

    Raises:
        OptionError: ``id2label`` names a label that the network does not have.
        FormatError: ``id2label`` is not a mapping of numbers to text.
    """
    descriptions = _descriptions(prior, pipeline, count)
    by_name = _by_name(descriptions) or {name: {label} for name, label in pipeline.labels.items()}
    # timm, which takes seconds to import, is asked only if the labels may be ImageNet's
    wnids = imagenet_labels(count) if len(descriptions) in (0, count) else {}
    if wnids and not descriptions:
        imagenet = _by_name(_imagenet_descriptions(wnids))
        by_name, wnids = (imagenet, wnids) if by_name.keys() <= imagenet.keys() else (by_name, {})
    labels = {name: min(found) for name, found in by_name.items() if len(found) == 1} | wnids
    unnamed = set(range(count)) if wnids or not by_name else set(descriptions) - set(labels.values())
    ambiguous = {name.casefold(): tuple(sorted(found)) for name, found in by_name.items() if len(found) > 1}
    return LabelNames(labels | {str(label): label for label in sorted(unnamed)}, ambiguous)


def _by_name(descriptions: Mapping[int, str]) -> dict[str, set[int]]:
    """Return the labels of each description and of each of its parts."""
    by_name: dict[str, set[int]] = {}
    for label, description in descriptions.items():
        for name in {description.strip(), *(part.strip() for part in description.split(","))}:
            by_name.setdefault(name, set()).add(label)
    return by_name


def _descriptions(prior: str, pipeline: DiTPipeline, count: int) -> dict[int, str]:
    """Return the ``id2label`` of a pipeline's configuration or folder."""
    given = pipeline.config.get("id2label") or label_names_of(Path(str(pipeline.config.get("_name_or_path", ""))))
    if isinstance(given, Mapping):  # an object may have numbers as keys
        given = {str(label): description for label, description in given.items()}
    check_shape(f"{prior}: id2label", given, LABELS)
    descriptions = {int(label): str(description) for label, description in given.items()}
    if too_large := [label for label in descriptions if label >= count]:
        raise OptionError(f"{prior}: id2label: expected labels from 0 to {count - 1}, got {too_large[0]}")
    return descriptions


def _imagenet_descriptions(wnids: Mapping[str, int]) -> dict[int, str]:
    """Return the description of each of ImageNet's labels."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return {label: str(info.label_name_to_description(wnid)) for wnid, label in wnids.items()}
