"""What tests of training a prior and of teaching it classes share: few images, quick cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dap.data.open import open_source
from dap.data.source import Source

CLASSES = ["Dress", "Bag"]


def two_classes() -> Source:
    """Forty images of each of two classes."""
    whole = open_source("fashion-mini", classes=CLASSES)
    return whole.select(np.concatenate([whole.of_class(label)[:40] for label in range(2)]))


def quick_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards that are quick: two samples a class, a judge of two steps."""
    from dap.evaluation import judge
    from dap.evaluation.small import Small
    from dap.training import measure, train

    monkeypatch.setattr(measure, "SAMPLES", 2)
    for module in (measure, train):
        monkeypatch.setattr(module, "RECOMMENDED", module.RECOMMENDED | {"num_inference_steps": 2})
    monkeypatch.setattr(judge, "JUDGE", Small(width=4, few_steps=2, many_steps=2))


def files_of(source: Source, folder: Path) -> Path:
    """Write the images of a source below a folder, which is returned, one folder for each class."""
    for index in range(len(source)):
        place = folder / source.class_names[source.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images([index], size=32, channels=1)[0, 0]).save(place / f"{index}.png")
    return folder
