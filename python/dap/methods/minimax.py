"""minimax: a prior that is fine-tuned on the real images for coverage and variety, and its samples without guidance.

Gu et al., "Efficient Dataset Distillation via Minimax Diffusion", CVPR 2024, https://arxiv.org/abs/2311.15529, code at
https://github.com/vimar-gu/MinimaxDiffusion. A DiT is fine-tuned by DiffFit (:mod:`dap.priors.diff_fit`) on the latents
of the real images (:mod:`dap.methods.common.fine_tuning`). For each class c two memories keep the last ``memory`` real
latents R_c and the last estimates P_c = {x̂_0} of the network, and each batch with the estimates B_c of c adds

    1/C Σ_c [ λ_r (1 − min_{x ∈ B_c, r ∈ R_c} cos(x, r))  +  λ_d max_{x ∈ B_c, p ∈ P_c} cos(x, p) ]

to the loss, C the number of classes in the batch: the least similarity to the real latents is raised, and the largest
to the network's own earlier estimates is lowered. A class has these terms from its second batch on, and the batch is
remembered afterwards. The moving average of the training is sampled.

Published constants: λ_r = 0.002, λ_d = 0.008, 64 latents in a memory, 8 epochs in batches of 8, AdamW at 1e-3, an
average of 0.9999, one network for at most 20 classes; samples in 50 steps with guidance 4. They are the defaults and
the preset "paper", but for steps and guidance, which are options of the run (``sampling="dit-repo"``). The preset
"fashion" is a short training.

Differences from the released code: it draws a sample of the VAE's posterior, and mirrors half of the images; here a
latent is the posterior's mean, from the cache, and is not mirrored. There the label of a class is its position in the
sorted list of the source's folders, which is right for a folder of all 1,000 classes alone; here it is that of the
prior.

``out/adapter/`` has the fine-tuned prior: ``prior="out/adapter"`` is a prior for every method. If the run has more
classes than one network is for, ``out/adapters/0/``, ``out/adapters/1/``, … have one for each part of the class map.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import ClassVar, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from dap.config import check_number, check_whole
from dap.device import TRAINING_DTYPES
from dap.errors import OptionError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.fine_tuning import Examples, FineTuning, fine_tune, training_bytes
from dap.methods.common.memories import Memories
from dap.priors import Demand
from dap.priors.adapter import WEIGHTS, adapter_files
from dap.priors.diff_fit import merged, merged_bytes
from dap.priors.dit import DiTPrior
from dap.storage.cache import ADAPTERS, CacheEntry
from dap.storage.unfinished import in_turns, unfinished_folder
from dap.torch_state import tf32_on

__all__ = ["Minimax"]

STATE = "training.pt"
RULE = 1  # raise it with every change of the trained bits, so that results of older versions are not read


class FineTuned(NamedTuple):
    """What a run's networks learned.

    Attributes:
        prior: The prior that was fine-tuned.
        values: Those of :class:`dap.priors.diff_fit.DiffFit` that each network learned, by name.
    """

    prior: DiTPrior
    values: Sequence[Mapping[str, Tensor]]

    def files(self) -> list[dict[str, bytes]]:
        """Return the files of the adapter of each network."""
        of = self.prior.describe()
        return [adapter_files(str(of["name"]), str(of["sha256"]), diff_fit=values) for values in self.values]


@dataclass(frozen=True)
class Minimax(Method[FineTuned]):
    """Samples of a DiT that is fine-tuned on the real images with two memories.

    Attributes:
        representativeness: λ_r, at least 0.
        diversity: λ_d, at least 0.
        memory: Latents in a memory, at least 1.
        epochs: Passes over the real images of a network's classes, at least 1.
        steps: Steps of a network, at least 1; None: those of ``epochs``.
        batch: Latents in a step, at least 1.
        learning_rate: The rate of AdamW, above 0 and at most 1.
        average: The decay of the moving average that is sampled, in [0, 1).
        together: The most classes of one network, at least 1.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="minimax:fashion", out="distilled")  # doctest: +SKIP
        >>> more = dap.distill(  # doctest: +SKIP
        ...     "fashion-mini", prior="distilled/adapter", method="dit", ipc=50, out="more"
        ... )
    """

    name: ClassVar[str] = "minimax"
    paper: ClassVar[str] = "Gu et al., CVPR 2024, arXiv 2311.15529"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "training")
    presets: ClassVar[Presets] = {
        "paper": {"representativeness": 0.002, "diversity": 0.008, "memory": 64, "epochs": 8, "average": 0.9999},
        "fashion": {"steps": 2000, "average": 0.999},
        "tiny": {"steps": 3, "batch": 4, "average": 0.5},
    }
    sampled_by: ClassVar[Mapping[str, str]] = {"paper": "dit-repo"}

    representativeness: float = 0.002
    diversity: float = 0.008
    memory: int = 64
    epochs: int = 8
    steps: int | None = None
    batch: int = 8
    learning_rate: float = 1e-3
    average: float = 0.9999
    together: int = 20

    def __post_init__(self) -> None:
        for option in ("representativeness", "diversity"):
            check_number(option, getattr(self, option), 0)
        for option in ("memory", "epochs", "batch", "together"):
            check_whole(option, getattr(self, option))
        if self.steps is not None:
            check_whole("steps", self.steps)
        check_number("learning_rate", self.learning_rate, most=1, above=0)
        check_number("average", self.average, 0, below=1)

    def prepare(self, context: Context) -> FineTuned:
        """Return what each network learns; the cache keeps it, and the steps of a training that was stopped.

        Raises:
            OptionError: The prior is no DiT, or computes in a dtype in which small gradients are zero.
            DivergedError: A loss is not finite.
        """
        prior = context.prior
        if not isinstance(prior, DiTPrior):
            raise OptionError(
                f"method 'minimax' fine-tunes a DiT, which {prior.name} is not: choose a DiTPipeline, or a method "
                "that guides, such as dap_set"
            )
        if prior.dtype not in TRAINING_DTYPES:
            raise OptionError(f"method 'minimax' does not train in {prior.dtype}: choose dtype='bfloat16' or 'float32'")
        real = real_latents(
            context.source, context.classes, prior, index=context.index, bars=context.bars, dtype=context.latent_dtype
        )
        parts = self._parts(context)
        entries = [self._entry(context, prior, real, part) for part in parts]
        if not all(entry.is_whole() for entry in entries):
            real.prepare()
        values: dict[int, Mapping[str, Tensor]] = {}
        with closing(in_turns(entries)) as numbers:
            for number in numbers:
                title = "fine-tuning" if len(parts) == 1 else f"fine-tuning {number + 1} of {len(parts)}"
                values[number] = self._tuned(context, prior, real, parts[number], entries[number], title)
        return FineTuned(prior, [values[number] for number in range(len(parts))])

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates of a fine-tuned copy are all that is needed."""
        return (Demand(fixed=merged_bytes(context.prior)),)

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of a step of the training, and of the latents that it is done on."""
        most = max(sum(len(context.source.of_class(index)) for index in part) for part in self._parts(context))
        latents = 4 * most * math.prod(context.prior.latent_shape)
        return max(context.prior.encoding_bytes, latents + training_bytes(context.prior, self._batch(most)))

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images."""
        return latents_bytes(context.source, context.prior, index=context.index)

    def shared(self) -> str | None:
        """Return that a network is fine-tuned on several classes."""
        return "networks that are fine-tuned on several classes"

    def make(self, context: Context, unit: Unit, artefact: FineTuned) -> Tensor:
        """Return latents of the unit's slots."""
        prior, values = artefact
        latents = torch.empty(len(unit.slots), *prior.latent_shape, device=prior.device)
        numbers = torch.tensor([slot.class_index // self.together for slot in unit.slots])
        for number in numbers.unique().tolist():
            places = torch.nonzero(numbers == number).flatten()
            own = Unit(unit.index, tuple(unit.slots[place] for place in places.tolist()))
            tuned = prior.with_denoiser(merged(prior.denoiser, values[number]), name=prior.name)
            latents[places.to(latents.device)] = replace(context, prior=tuned).sample(own)
        return latents

    def record(self, context: Context, artefact: FineTuned) -> Record:
        """Return the classes of each network, and the hash of what it learned."""
        names, parts = [entry.name for entry in context.classes], self._parts(context)
        return {
            "adapters": [
                {"classes": names[part.start : part.stop], "sha256": hashlib.sha256(files[WEIGHTS]).hexdigest()}
                for part, files in zip(parts, artefact.files(), strict=True)
            ]
        }

    def files(self, context: Context, artefact: FineTuned) -> dict[str, bytes]:
        """Return the adapters, by path."""
        adapters = artefact.files()
        folders = ["adapter"] if len(adapters) == 1 else [f"adapters/{number}" for number in range(len(adapters))]
        return {
            f"{folder}/{name}": data
            for folder, files in zip(folders, adapters, strict=True)
            for name, data in files.items()
        }

    def _parts(self, context: Context) -> list[range]:
        """Return the numbers of the classes of each network."""
        count = len(context.classes)
        return [range(start, min(start + self.together, count)) for start in range(0, count, self.together)]

    def _batch(self, images: int) -> int:
        return min(self.batch, images)

    def _entry(self, context: Context, prior: DiTPrior, real: RealLatents, part: range) -> CacheEntry:
        """Return the entry of the cache that has what a network learned."""
        names = [[context.classes[number].name, context.classes[number].label] for number in part]
        options = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "together"}
        content = [
            RULE, real.identity, prior.describe()["sha256"], names, options, context.seed, version("torch"),
            prior.device.type, str(prior.dtype), *tf32_on(prior.device),
        ]  # fmt: skip
        return CacheEntry.of(ADAPTERS, content, ".safetensors")

    def _tuned(
        self, context: Context, prior: DiTPrior, real: RealLatents, part: range, entry: CacheEntry, title: str
    ) -> Mapping[str, Tensor]:
        """Fine-tune a network, or read what it learned from the cache."""
        if entry.is_whole():
            return load(entry.path.read_bytes())
        classes = [context.classes[number] for number in part]
        counts = torch.tensor([len(real.ids[own.name]) for own in classes])

        def examples() -> Examples:
            latents = torch.cat([real.of_class(own.name) for own in classes])
            places, labels = torch.arange(len(classes)), torch.tensor([own.label for own in classes])
            return Examples(latents, places.repeat_interleave(counts), labels.repeat_interleave(counts))

        batch = self._batch(int(counts.sum()))
        steps = self.steps or self.epochs * (int(counts.sum()) // batch)
        unfinished = unfinished_folder(entry)
        values = fine_tune(
            prior, examples, Memories(self.representativeness, self.diversity, self.memory),
            FineTuning(steps, batch, self.learning_rate, self.average), seed=(context.seed, self.name, classes[0].name),
            checkpoint=unfinished / STATE, title=title, bars=context.bars,
        )  # fmt: skip
        entry.write(save({name: value.contiguous() for name, value in values.items()}))
        shutil.rmtree(unfinished, ignore_errors=True)
        return values
