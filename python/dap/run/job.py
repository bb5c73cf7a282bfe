"""A job: a run whose options are all resolved."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dap.bar import NO_BARS, Bars
from dap.config import check_seed, plain
from dap.data.classmap import ClassEntry, LabelMap
from dap.data.ipc import Ipc, check_ipc, counts_of
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.device import resolve_device
from dap.errors import OptionError
from dap.features import Encoder, check_channels, check_images
from dap.index import Index
from dap.methods import AnyGuide, AnyMethod, Context, get_method
from dap.methods.common.real_images import RealImages, RealImagesByFeatures
from dap.priors import NoPrior, Prior, PriorLike, load_prior
from dap.run.classes import classes_of_run, open_index_and_source
from dap.run.real_images import Shape, check_request, chosen_features, shape_of_run
from dap.sampling import SamplingSettings, StepCallback, as_sampled, check_settings, differences

__all__ = ["Job", "Request", "resolve"]

logger = logging.getLogger(__name__)

OF_THE_PRIOR = (
    "prior", "prior_options", "label_map", "sampling", "num_inference_steps", "guidance_scale", "scheduler",
    "timestep_spacing", "eta", "dtype", "tf32",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of :func:`dap.distill` on which the bytes of a run depend; see there.

    It pickles where its values do: paths and names always, objects as far as they can.
    """

    source: SourceLike | None = None
    prior: PriorLike = "fashion-dit"
    prior_options: Mapping[str, object] | None = None
    method: str | AnyMethod | AnyGuide = "dap_set"
    method_options: Mapping[str, object] | None = None
    ipc: Ipc = 10
    seed: int = 0
    index: str | Path | Index | None = None
    classes: Collection[str] | None = None
    label_map: LabelMap | None = None
    sampling: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    timestep_spacing: str | None = None
    eta: float | None = None
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    tf32: bool = False
    features: str | Encoder | None = None
    features_options: Mapping[str, object] | None = None
    size: int | None = None
    channels: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ipc", check_ipc(self.ipc))
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_channels(self.channels)
        for option in ("method", "size", "num_inference_steps", "guidance_scale", "eta"):
            object.__setattr__(self, option, plain(getattr(self, option)))


@dataclass(frozen=True)
class Job:
    """A resolved run. It pickles as its request, and is resolved again where it is unpickled.

    Attributes:
        request: The options that it was resolved from.
        recipe: The method.
        source: The real images, in the classes of the run.
        prior: The diffusion model; a :class:`dap.priors.NoPrior` if the method needs none.
        settings: How to sample.
        classes: The class map; labels of ``source`` are positions in it.
        index: The feature index that was given, or None.
        shape: Size and channels of the images.
        counts: Number of images of each class.
        whole: The source with all of its classes; None: there is only an index.
        encoder: What turns real images into the features by which they are chosen; None: the prior, or nothing.
    """

    request: Request
    recipe: AnyMethod
    source: Source
    prior: Prior
    settings: SamplingSettings
    classes: tuple[ClassEntry, ...]
    index: Index | None
    shape: Shape
    counts: tuple[int, ...]
    whole: Source | None = None
    encoder: Encoder | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return resolve, (self.request,)

    @property
    def samples(self) -> bool:
        """Whether a prior makes the images, or its features choose them."""
        return not isinstance(self.prior, NoPrior)

    @property
    def tf32(self) -> bool:
        """Whether products and convolutions of float32 are computed in TF32, which CPUs do not have."""
        return self.request.tf32 and self.prior.device.type == "cuda"

    def context(
        self,
        bars: Bars = NO_BARS,
        callback_on_step_end: StepCallback | None = None,
        *,
        pass_size: int | None = None,
        batch_size: int | None = None,
        latent_dtype: str = "float16",
    ) -> Context:
        """Return the run as its method sees it; the last three arguments are those of the run's folder."""
        most, different = max(self.counts), len(set(self.counts)) > 1
        return Context(
            self.source, self.classes, self.prior, self.settings, self.request.seed, most, self.shape.size,
            self.shape.channels, callback_on_step_end=callback_on_step_end, index=self.index, encoder=self.encoder,
            own_size=self.shape.own, bars=bars, pass_size=pass_size, batch_size=batch_size,
            latent_dtype=latent_dtype, counts=self.counts if different else None,
        )  # fmt: skip


def resolve(request: Request) -> Job:
    """Open the source, load the prior and check every option, before anything is computed.

    Raises:
        DapError: One of its kinds, for an option, source, index or prior that is not usable.
    """
    recipe = get_method(request.method, request.method_options)
    index, whole = None, None
    if request.index is not None:
        index, source = open_index_and_source(request.index, request.source, request.classes)
    elif request.source is not None:
        whole = open_source(request.source)
        source = whole if request.classes is None else whole.subset(request.classes)
    else:
        raise OptionError("source: expected real images to distil, or an index of them (index=), got neither")
    if index is not None and request.label_map:
        raise OptionError("label_map: the index has the labels that it was made with; give it to build_index instead")
    counts = counts_of(request.ipc, source.class_names)
    check_request(request, source, recipe, counts)
    prior, encoder = _prior_and_encoder(request, recipe, source)
    settings = SamplingSettings.choose(
        prior.recommended, request.sampling, num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale, scheduler=request.scheduler, eta=request.eta,
        timestep_spacing=request.timestep_spacing,
    )  # fmt: skip
    classes = classes_of_run(source, index, prior, request.label_map)
    _warn_of_unused(request, recipe, prior)
    shape = _shape(request, recipe, source, prior)
    job = Job(request, recipe, source, prior, settings, classes, index, shape, counts, whole, encoder)
    if job.samples:
        check_settings(prior, settings)
        _warn_of_sampling(job)
    return job


def _prior_and_encoder(request: Request, recipe: AnyMethod, source: Source) -> tuple[Prior, Encoder | None]:
    """Return the prior, or that there is none, and the encoder of a method that chooses real images."""

    def load() -> Prior:
        loaded = load_prior(request.prior, device=request.device, dtype=request.dtype, options=request.prior_options)
        prior = loaded.for_classes(source.class_names)
        return prior if request.sampling is None else as_sampled(prior, request.sampling, request.prior_options or ())

    prior: Prior | None = None
    encoder: Encoder | None = None
    if recipe.uses_prior():
        prior = load()
    elif isinstance(recipe, RealImagesByFeatures):
        prior, encoder = chosen_features(request, source, load)
    if prior is None:
        size, channels, _ = shape_of_run(request, source, recipe)
        computes = not isinstance(recipe, RealImages)
        prior = NoPrior((channels, size, size), resolve_device(request.device) if computes else None)
    return prior, encoder


def _shape(request: Request, recipe: AnyMethod, source: Source, prior: Prior) -> Shape:
    """Return the shape of the images: that of the prior that makes them, otherwise that of the source."""
    if not recipe.uses_prior():
        return shape_of_run(request, source, recipe)
    if request.source is not None:  # an index was checked when it was built
        check_images(source, prior, request.channels)
    channels, size, _ = prior.image_shape
    return Shape(size, channels, own=False)


def _warn_of_sampling(job: Job) -> None:
    """Log a warning if the numbers of the method's preset were published for another sampling than that of the run."""
    method = job.request.method if isinstance(job.request.method, str) else ""
    published = job.recipe.sampled_by.get(method.partition(":")[2])
    if published and (differing := differences(job.prior, job.settings, published)):
        logger.warning(
            "%s: its numbers were published for sampling=%r; this run has %s", method, published, ", ".join(differing)
        )


def _warn_of_unused(request: Request, recipe: AnyMethod, prior: Prior) -> None:
    """Log a warning that names the given options which change nothing: those of a prior without one, or of sampling."""
    options, why = recipe.ignored(), ""
    if isinstance(prior, NoPrior):
        tried = isinstance(recipe, RealImagesByFeatures) and request.features in (None, "vae")
        used = ("prior", "prior_options", "dtype", "label_map") if tried else ()
        options, why = tuple(name for name in OF_THE_PRIOR if name not in used), ", which uses no prior"
    given = [name for name in options if getattr(request, name, None) not in (getattr(Request, name, None), None, {})]
    if given:
        logger.warning("these options change nothing with method %r%s: %s", recipe.name, why, ", ".join(given))
