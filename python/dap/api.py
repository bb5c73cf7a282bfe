"""The library's face: validate, resolve names, plan, run."""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dap._core import build_info
from dap.config import to_json
from dap.data import classmap
from dap.data.builtin import BUILTIN
from dap.data.classmap import LabelMap
from dap.data.image_files import read_image
from dap.data.label_order import LabelOrder, reorder_labels
from dap.data.manifest import SCHEMA, read_manifest
from dap.data.names import escape
from dap.data.open import SourceLike, open_source
from dap.data.sidecar import read_sidecar
from dap.data.source import Source
from dap.dataset import DistilledDataset
from dap.errors import OptionError, SourceError
from dap.evaluation import EvaluationResult, evaluate_source
from dap.index import Index, open_index
from dap.indexing import build_index, classes_of_index, classes_of_source, source_beside
from dap.methods import Context, Guide, Method, get_method
from dap.priors import Prior, load_prior
from dap.report import contact_sheet
from dap.run import Run, open_run, slot_path
from dap.sampling import SamplingSettings, check_settings
from dap.storage.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from dap.sampling import StepCallback

__all__ = ["build_index", "distill", "evaluate", "load", "open_index"]

SHEET = "contact_sheet.png"
MAX_BATCH = 100


def load(path: SourceLike, *, class_map: LabelOrder | None = None) -> DistilledDataset:
    """Opens a distilled dataset: a run of :func:`distill`, or a set that another method's authors released.

    Args:
        path: The folder of a run; or labelled images of any other kind that :func:`dap.open_source` opens: a
            class-per-folder tree, WebDataset or Parquet shards, safetensors, a ``.pt`` of tensors. The labels of a tree
            are the positions of its sorted folders.
        class_map: Labels of another order (:func:`dap.data.label_order.reorder_labels`): class names in the order of
            their labels, the label of each name, or a file of one of the two.

    Raises:
        SourceError: Nothing of that kind is there, or the run was not finished.
        FormatError: A file is damaged.
        ClassMapError: The class map does not fit the classes.
        OptionError: ``class_map`` is given for a run, whose manifest has the labels.

    Example:
        >>> import dap
        >>> dap.load("minimax/ipc10", class_map="class_woof.txt").loader(64, augment="standard")  # doctest: +SKIP
    """
    run = open_run(path) if isinstance(path, str | Path) else None
    if run is not None:
        if class_map is not None:
            raise OptionError(f"{path}: its labels are those of its dap.json; leave class_map= out")
        return DistilledDataset(run.source, manifest=run.manifest, best_first=run.best_first)
    try:
        source = open_source(path)
    except SourceError as error:
        raise SourceError(f"{error}; and there is no dap.json of a run") from error
    tensors = read_sidecar(Path(path), source) if isinstance(path, str | Path) else None
    return DistilledDataset(source if class_map is None else reorder_labels(source, class_map), tensors=tensors)


def distill(
    source: SourceLike | None = None,
    *,
    out: str | Path,
    prior: Any = "fashion-dit",
    prior_options: Mapping[str, Any] | None = None,
    method: str | Method | Guide = "dap",
    method_options: Mapping[str, Any] | None = None,
    ipc: int = 10,
    seed: int = 0,
    index: str | Path | Index | None = None,
    classes: Collection[str] | None = None,
    label_map: LabelMap | None = None,
    batch_size: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    scheduler: str | None = None,
    eta: float | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    callback_on_step_end: StepCallback | None = None,
    progress: bool = True,
) -> DistilledDataset:
    """Distils a labelled image dataset into ``ipc`` images per class.

    Writes ``out/train/<class>/<slot>.png``, ``out/dap.json`` and ``out/contact_sheet.png``. Run again with the same
    options it continues where it stopped, after checking what is there; with a larger ``ipc`` it adds to it, where the
    method's slots are independent. With the same source, prior, options and seed the files are the same to the byte.

    Args:
        source: Real images: a class-per-folder tree, a built-in name ("fashion-mini"), a torch ``Dataset``, a Hugging
            Face dataset or its id. See :func:`dap.data.open.open_source`. With ``index`` it may be left out.
        out: The folder to fill: new, empty, or of the same run.
        prior: "fashion-dit"; a folder, hub id or object of a ``DiTPipeline``, ``StableDiffusionPipeline`` or a pipeline
            with a ``UNet2DModel``; the folder of an adapter (:func:`dap.adapt_prior`); or a :class:`dap.priors.Prior`.
        prior_options: Options of the prior's class by name, such as ``template`` and ``negative_prompt`` of
            :class:`dap.priors.stable_diffusion.StableDiffusionPrior`; not beside a ``Prior`` object, which has them.
        method: Name ("dap", "dit", "random"; see :func:`dap.list_methods`), preset ("dap:paper"), object
            (``dap.methods.DAP(scale=0.3)``), or terms (``dap.terms.SetEnergy() + dap.terms.KernelDistance()``).
        method_options: Options by name, beside a method's name.
        ipc: Images per class, at least 1.
        seed: Root of all randomness.
        index: A feature index (:func:`build_index`), from which a method takes the features of real images; guidance
            then acts at the steps that it has. It has to fit the prior, the method's options, the schedule, and the
            source where one is given. Left out, a method that wants one makes its own in the cache (``$DAP_CACHE``).
        classes: Names of the classes to distil; all, or those of the index, if left out.
        label_map: For a class that the prior does not know, by its name: the name or id of the prior's label that
            stands for it, or None for the null condition: then guidance alone leads to the class. No two classes may
            share a label. (A prior that takes text has prompts instead.)
        batch_size: Slots made together; by memory, at most 100, if left out. It is part of the plan: another one gives
            pixels within one grey level.
        num_inference_steps: Denoising steps; the prior's recommendation, or 50.
        guidance_scale: Classifier-free guidance; the prior's recommendation, or 4.
        scheduler: "ddpm", "ddim", "dpm++", "euler" or "heun"; the prior's own if left out.
        eta: DDIM's η.
        device: Where the prior runs; the GPU if there is one.
        dtype: Of the prior's weights; float32 if left out.
        callback_on_step_end: As in diffusers: ``callback(prior, step, timestep, {"latents": x}) -> dict``.
        progress: Show a progress bar.

    Returns:
        The distilled dataset.

    Raises:
        DapError: One of its kinds, for a bad option, source, prior or output folder; nothing is left behind.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", ipc=10, out="distilled")  # doctest: +SKIP
    """
    recipe = get_method(method, method_options)
    for option, value in (("ipc", ipc), ("batch_size", 1 if batch_size is None else batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{option}: expected a whole number of at least 1, got {value!r}")
    out = Path(out)
    _check_writable(out)
    if index is not None:
        opened, images = source_beside(index, source, classes)
    elif source is not None:
        opened, images = None, open_source(source, classes=classes)
    else:
        raise OptionError("source: expected real images to distil, or an index of them (index=), got neither")
    model = load_prior(prior, device=device, dtype=dtype, options=prior_options) if "prior" in recipe.needs else None
    if model is not None:
        model = model.for_classes(images.class_names)
    settings = SamplingSettings.choose(
        model.recommended if model else {},
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        eta=eta,
    )
    if opened is not None and label_map:
        raise OptionError("label_map: the index has the labels that it was made with; give it to build_index instead")
    if opened is not None:
        entries = classes_of_index(opened, images, model)
    else:
        entries = classes_of_source(images, model, label_map) if model else classmap.build_class_map(images, None)
    channels, size = (model.image_shape[0], model.image_shape[1]) if model else reversed(images.native_shape())
    if model:
        check_settings(model, settings)
    if opened is None:
        described = {"name": images.name, "identity": images.identity(), "images": len(images)}
    else:
        described = {**opened.spec.source, "images": sum(opened.of_class(entry.name).rows for entry in entries)}
    header = {
        "schema": SCHEMA,
        "options": {
            "method": to_json(recipe), "seed": seed, "size": size, "channels": channels,
            "sampling": asdict(settings) if model else None,
            "device": model.device.type if model else None, "dtype": str(model.dtype) if model else None,
        },
        "source": described,
        "index": None if opened is None else {"sha256": opened.hash, **opened.spec.to_json()},
        "prior": model.describe() if model else None,
        "class_map": classmap.to_json(entries),
        "versions": _versions(),
    }  # fmt: skip
    run = Run(
        out,
        header,
        ipc=ipc,
        batch_size=batch_size,
        default_batch_size=_default_batch_size(model),
        couples=recipe.couples,
    )
    missing = run.missing
    if run.complete and (out / SHEET).exists():
        run.finish()
        return load(out)

    context = Context(images, entries, model, settings, seed, ipc, size, channels, index=opened)
    start = time.monotonic()
    artefact = recipe.prepare(context)
    prepared = {"prepare": time.monotonic() - start}
    steps_of = getattr(recipe, "steps_per_slot", lambda settings: settings.num_inference_steps)
    steps = steps_of(settings) if model else 0
    title = f"{recipe.name}, {ipc} x {len(entries)}"
    total = sum(len(unit.slots) for unit in missing) * steps
    with tqdm(total=total, desc=title, unit="step", disable=not (progress and steps)) as bar:

        def on_step(prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            bar.update(len(tensors["latents"]))  # a unit may be sampled in parts
            return callback_on_step_end(prior, step, timestep, tensors) if callback_on_step_end else tensors

        run.execute(recipe, replace(context, callback_on_step_end=on_step), artefact, missing, prepared)
    run.rank(recipe, context, artefact)
    stream = io.BytesIO()
    rows = [
        (entry.name, [partial(read_image, out / slot_path(entry.folder, number)) for number in range(ipc)])
        for entry in entries
    ]
    contact_sheet(rows).save(stream, format="PNG")
    write_atomic(out / SHEET, stream.getvalue())
    run.finish()
    return load(out)


def evaluate(
    distilled: DistilledDataset | SourceLike,
    test: SourceLike,
    *,
    real: SourceLike | None = None,
    protocol: str = "small",
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    judge: bool = False,
    device: str | torch.device | None = None,
) -> EvaluationResult:
    """Trains classifiers on a distilled set and tests them on real images.

    Classifiers are also trained on random real subsets of the same size, with the same seeds, if the real training
    images are known: from ``real``, or from a manifest that names a built-in source or a folder that exists.

    Args:
        distilled: A distilled dataset or a part of it (``distilled.take(10)``), the folder of a run, or anything else
            that :func:`dap.open_source` opens.
        test: Real images to test on, for example "fashion-mini" (its test split is taken) or "path/to/val".
        real: Real training images to compare with.
        protocol: Name of an evaluation protocol; "small" is defined in :mod:`dap.evaluation.small`.
        networks: Names of networks.
        repeats: Number of training seeds.
        seed: Root seed of the trainings.
        judge: Also train the judge, a classifier, on all real training images, and report the share of distilled images
            that it assigns to their own class (:mod:`dap.evaluation.judge`).
        device: Where to train; the GPU if there is one.

    Returns:
        Accuracies in per cent with mean, standard error and n; ``table()`` and ``to_json()`` show them.

    Raises:
        DapError: A subclass of it, for an unknown source, protocol or network, or classes that do not match.

    Example:
        >>> import dap
        >>> dap.evaluate("distilled", "fashion-mini", repeats=3).table()  # doctest: +SKIP
    """
    if isinstance(distilled, DistilledDataset):
        train, manifest = _as_evaluated(distilled), distilled.manifest
    else:
        train = open_source(distilled)
        manifest = (read_manifest(Path(distilled)) if isinstance(distilled, str | Path) else None) or {}
    if real is None:
        real = _recorded_source(manifest)
    return evaluate_source(
        train, open_source(test, split="test"),
        real=None if real is None else open_source(real, classes=train.class_names),
        protocol=protocol, networks=networks, repeats=repeats, seed=seed, judge=judge, device=device,
    )  # fmt: skip


def _as_evaluated(distilled: DistilledDataset) -> Source:
    """The set's images without classes that have none.

    A run's images are sorted as in its folder, so that ``evaluate`` returns the same numbers for the set and its path.
    """
    source = distilled.source
    if not distilled.manifest:
        return source.subset([source.class_names[label] for label in np.unique(source.labels)])
    source = reorder_labels(source, sorted(source.class_names, key=escape))
    return source.select(sorted(range(len(source)), key=lambda index: (source.labels[index], source.ids[index])))


def _recorded_source(manifest: Mapping[str, Any]) -> str | None:
    """The source that a manifest names, if it can be opened by that name here."""
    name = manifest["source"]["name"] if manifest else ""
    return name if name in BUILTIN or (name and Path(name).is_dir()) else None


def _check_writable(out: Path) -> None:
    """Fails before anything is computed if ``out`` cannot be made or written."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OptionError(f"out: cannot write to {str(out)!r}: {nearest} is not a folder that this user may write to")


def _default_batch_size(prior: Prior | None) -> int:
    """Slots that fit into half of the device's memory, at most 100."""
    if prior is None:
        return MAX_BATCH
    if prior.device.type == "cuda":
        memory = torch.cuda.get_device_properties(prior.device).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(MAX_BATCH, memory // 2 // prior.slot_bytes))


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "diffusers", "numpy", "Pillow")}
    return {"dap": build_info()["version"], "python": platform.python_version(), **packages}
