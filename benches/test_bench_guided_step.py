"""Three steps of sampling 100 slots with DAP's guidance, beside the same steps without any (the limit).

The prior is the embedded one, with 64 references a class. The rival is what a method without an index does: it computes
the features of the same references again at each step. Both must give the same latents, other than the unguided ones.
A guided step costs 1 / (share of the limit) unguided ones, whatever the number of images in the source.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from turns import Contender, Group, named

from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.data.source import Source
from dap.features import DEFAULT_POOLING, encode_images, noised_features
from dap.methods import DAP, Context, Unit
from dap.methods.base import Slot
from dap.priors import load_prior
from dap.sampling import SamplingSettings, sample

STEPS, REFERENCES = 3, 64
THIRD, TWO_THIRDS = 2, 4
"""Blocks of the embedded prior's six."""

VARIANTS = [
    (THIRD, DEFAULT_POOLING, 10_000), (THIRD, DEFAULT_POOLING, 1_000), (THIRD, "mean", 10_000),
    (THIRD, "flat", 10_000), (TWO_THIRDS, DEFAULT_POOLING, 10_000),
]  # fmt: skip
"""The block, the pooling of its tokens, and how many images the source has."""


def groups(quick: bool) -> list[Group]:
    slots, references = (1, 4) if quick else (10, REFERENCES)
    contenders = {
        "guided": Contender(lambda data: data.sample(data.term), "dap", rtol=1e-3),
        "guided, features computed again": Contender(lambda data: data.sample(data.recomputed), rtol=1e-3),
        "unguided": Contender(lambda data: data.sample(None), "limit"),
    }
    return [
        Group(_name(*variant, 10 * slots), partial(Guided, *variant, slots, references), contenders, Guided.check)
        for variant in VARIANTS[: 1 if quick else None]
    ]


def test_guided_step(take_turns, group, contender):
    take_turns(group, contender)


def _name(block: int, pooling: str, images: int, slots: int) -> str:
    return named(f"{STEPS} guided steps of {slots} slots", f"block {block} of 6", pooling, f"{images:,} images")


class Guided:
    """A prior, the slots of ten classes, and the term that guides them, with stored and with recomputed features."""

    def __init__(self, block: int, pooling: str, images: int, slots: int, references: int) -> None:
        self.prior = load_prior("fashion-dit")
        settings = SamplingSettings.choose(self.prior.recommended, num_inference_steps=STEPS)
        source = _shrunk(open_source("fashion-mini"), images // 10)
        classes = build_class_map(source, self.prior.labels_of(source.class_names))
        self.context = Context(source, classes, self.prior, settings, 0, slots, 32, 1)
        self.unit = Unit(0, tuple(Slot(label, number) for label in range(len(classes)) for number in range(slots)))
        method = DAP(block=block, pooling=pooling, references=references)
        artefact = method.prepare(self.context)
        self.term = method.term(self.context, self.unit, artefact)
        self.recomputed = dataclasses.replace(self.term, references=Recomputed(self.context, artefact))
        self.unguided, self.first = self.sample(None), None

    def sample(self, term: Any) -> torch.Tensor:
        return sample(
            self.prior, self.context.labels(self.unit), self.context.generators(self.unit),
            settings=self.context.settings, terms=[term] if term else [],
        )  # fmt: skip

    def check(self, latents: torch.Tensor, rtol: float) -> None:
        """Raise ValueError unless the latents are the first accepted ones, and guidance moved them."""
        self.first = latents if self.first is None else self.first
        moved = float((self.first - self.unguided).abs().max())
        apart = float((latents - self.first).abs().max())
        if not moved > 0 or not apart <= rtol * float(self.first.abs().max()):
            raise ValueError(f"guidance moved latents by up to {moved:.1e}, and they are {apart:.1e} from the first's")


class Recomputed(Mapping[tuple[int, int], torch.Tensor]):
    """Features of the references by (step, prior label), computed when they are asked for."""

    def __init__(self, context: Context, artefact: Any) -> None:
        self.prior, self.tap = context.prior, artefact.tap
        self.scheduler = self.prior.scheduler(context.settings.scheduler, STEPS)
        places = {image_id: place for place, image_id in enumerate(context.source.ids)}
        self.latents = {}
        for entry in context.classes:
            ids = artefact.ids[entry.name]
            images = context.images([places[image_id] for image_id in ids])
            self.latents[entry.prior_label] = (encode_images(self.prior, images), ids)

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        step, label = key
        latents, ids = self.latents[label]
        return noised_features(
            self.prior, latents, ids, label=label, tap=self.tap, scheduler=self.scheduler,
            timestep=int(self.scheduler.timesteps[step]), seed=0,
        )  # fmt: skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.product(range(STEPS), self.latents)

    def __len__(self) -> int:
        return STEPS * len(self.latents)


def _shrunk(source: Source, per_class: int) -> Source:
    """Return the same source with fewer images of each class."""
    rows = sorted(int(i) for label in range(len(source.class_names)) for i in source.of_class(label)[:per_class])
    return Source(
        source.name, source.class_names, source.source_ids, source.labels[rows], [source.ids[i] for i in rows],
        lambda index: source.load(rows[index]),
    )  # fmt: skip
