"""What is particular to runs of real images: the features by which they are chosen, and the size of the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dap.config import check_whole
from dap.data.appearance import CHANNELS, in_words
from dap.errors import ClassMapError, OptionError
from dap.features import Encoder, check_images, encoder_by_name, other_channels
from dap.features.encoders import with_labels
from dap.methods.common.real_images import RealImages, RealImagesByFeatures, check_enough
from dap.run.classes import classes_of_source

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.methods import AnyMethod
    from dap.priors import Prior
    from dap.run.job import Request

__all__ = ["Shape", "check_request", "chosen_features", "shape_of_run"]

logger = logging.getLogger(__name__)


class Shape(NamedTuple):
    """Size and channels of a run's images.

    Attributes:
        size: Side in pixels; if they keep their own sizes, the short side of the source's first image.
        channels: 1 or 3.
        own: Whether they keep their own sizes.
    """

    size: int
    channels: int
    own: bool


def check_request(request: Request, source: Source, recipe: AnyMethod, counts: Sequence[int]) -> None:
    """Raise unless the options for real images are ones that the method has, and its classes have enough images.

    Raises:
        OptionError: The method chooses nothing by features, or makes images in the prior's size; a class has too few.
    """
    if request.features is not None and not isinstance(recipe, RealImagesByFeatures):
        raise OptionError(f"features: method {recipe.name!r} chooses no real images by features; leave it out")
    if request.features_options and not isinstance(request.features, str):
        raise OptionError("features_options: expected features by name to which they belong, features='pixels'")
    if request.features_options and request.features == "prior":
        raise OptionError("features_options: the prior's features have block and timestep; give method_options instead")
    for option in ("prior", "device"):
        if option in (request.features_options or {}):
            raise OptionError(
                f"features_options: {option} is an option of the run, and of its features too; give it there"
            )
    if request.size is not None and recipe.uses_prior():
        raise OptionError(f"size: the images of method {recipe.name!r} have the prior's size; leave it out")
    if request.size is not None:
        check_whole("size", request.size)
    if isinstance(recipe, RealImages):
        check_enough(source, counts)


def shape_of_run(request: Request, source: Source, recipe: AnyMethod) -> Shape:
    """Return the shape of the images of a run without a prior, or of real images.

    They get the size and channels of the request; otherwise the size that all have if they are squares of one size, or
    their own sizes, and RGB if some are in colour.
    """
    appearance = source.appearance
    channels = appearance.channels if request.channels is None else CHANNELS[request.channels]
    if request.size is not None:
        return Shape(request.size, channels, own=False)
    return Shape(appearance.size, channels, own=isinstance(recipe, RealImages) and not appearance.uniform)


def chosen_features(request: Request, source: Source, load: Callable[[], Prior]) -> tuple[Prior | None, Encoder | None]:
    """Return the prior whose features choose the images, or the encoder that does without.

    Without ``features``, they are the prior's if it knows all classes and makes images of the source's channels, and
    otherwise small pixels. A warning then says which and why.

    Args:
        request: The options.
        source: The real images.
        load: Loads the prior.

    Raises:
        DapError: The prior cannot be loaded, or an option is wrong.
    """
    wanted = request.features
    options: dict[str, Any] = dict(request.features_options or {})
    if isinstance(wanted, Encoder):
        return None, with_labels(wanted, source)[0]  # a class that its prior does not know is refused here
    if wanted not in (None, "prior", "vae"):
        return None, encoder_by_name(wanted, device=request.device, **options)
    prior = load()
    if wanted is None:
        reason = _unfit(request, source, prior)
        if reason is None:
            return prior, None
        logger.warning(
            "%s: images are chosen by their pixels at 32 × 32, because %s; features= takes others, such as a model of "
            "timm", source.name, reason,
        )  # fmt: skip
        return None, encoder_by_name("pixels")
    check_images(source, prior, _consent(request, prior))
    if wanted == "vae":
        return None, encoder_by_name("vae", prior=prior, **options)
    return prior, None


def _unfit(request: Request, source: Source, prior: Prior) -> str | None:
    """Return why a prior's features are not the default for these images; None if they are."""
    if request.index is not None:
        return None  # its classes and channels were checked when it was built
    try:
        classes_of_source(source, prior, request.label_map)
    except ClassMapError:
        return f"the prior {prior.name} does not know all of the classes"
    return other_channels(source, prior, _consent(request, prior))


def _consent(request: Request, prior: Prior) -> str | None:
    """Return the option ``channels`` where it asks for those of a prior that encodes the images."""
    return request.channels if request.channels == in_words(prior.image_shape[0]) else None
