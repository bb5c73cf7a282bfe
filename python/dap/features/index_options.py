"""What a feature index is computed from: timesteps, the length of its features, and the prior's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from dap.config import check_whole
from dap.errors import OptionError
from dap.features.pooling import Tap
from dap.index import IndexSpec
from dap.torch_state import tf32_on

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dap.priors import Prior

__all__ = ["choose_timesteps", "computed_by", "feature_width", "index_spec", "prior_hash", "schedule"]


def schedule(scheduler: SchedulerMixin) -> list[int]:
    """Return the timesteps of a diffusers scheduler, from noise to image."""
    return [int(t) for t in scheduler.timesteps]


def choose_timesteps(steps: Sequence[int], wanted: int | Sequence[int]) -> tuple[int, ...]:
    """Return some timesteps of a schedule.

    Args:
        steps: The schedule's timesteps, from noise to image.
        wanted: Either a number of timesteps, evenly spaced from the noisiest on, or the timesteps themselves.

    Raises:
        OptionError: ``wanted`` is less than 1, more than the schedule has, or empty, or has a timestep that the
            schedule does not have.

    Example:
        >>> choose_timesteps([900, 700, 500, 300, 100], 2), choose_timesteps([900, 500, 100], [100, 900])
        ((900, 500), (900, 100))
    """
    steps = list(dict.fromkeys(steps))
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        count = check_whole("timesteps", wanted, 1, len(steps))
        return tuple(steps[number * len(steps) // count] for number in range(count))
    wanted = [check_whole("timesteps", t, 0) for t in wanted]
    if not wanted or not set(wanted) <= set(steps):
        unknown = ", ".join(str(t) for t in wanted if t not in steps) or "none"
        raise OptionError(f"timesteps: expected some of the schedule's, {', '.join(map(str, steps))}; got {unknown}")
    return tuple(t for t in steps if t in set(wanted))


def feature_width(prior: Prior, tap: Tap, label: int) -> int:
    """Return the length D of one feature vector, measured by one pass of the prior up to the tapped block.

    Args:
        prior: The prior.
        tap: Where the features are taken.
        label: Any label that the prior has.

    Raises:
        OptionError: The prior has no such block, or its tokens do not fit the pooling.
    """
    zero = torch.zeros((1, *prior.latent_shape), device=prior.device)
    start, labels = torch.tensor(0, device=prior.device), torch.tensor([label], device=prior.device)
    return int(tap.pool(prior.features(zero, start, labels, tap.block)).shape[1])


def index_spec(
    prior: Prior,
    tap: Tap,
    scheduler: SchedulerMixin,
    *,
    label: int,
    source: dict[str, str],
    timesteps: tuple[int, ...],
    noise: str,
    seed: int,
    dtype: str,
    latent_dtype: str,
    shard: tuple[int, int] | None = None,
) -> IndexSpec:
    """Return the spec of an index; fields that are not arguments are taken from the prior and its scheduler.

    ``label`` is any label that the prior has. The other arguments are fields of :class:`dap.index.IndexSpec`.

    Raises:
        OptionError: A value outside its range; a block or pooling that the prior does not have.
    """
    return IndexSpec(
        source=source, prior=prior_hash(prior), computed_in=_computed_in(prior), block=tap.block, pooling=tap.pooling,
        timesteps=timesteps,
        feature_shape=(feature_width(prior, tap, label),), latent_shape=tuple(prior.latent_shape),
        scheduler=type(scheduler).__name__, num_inference_steps=len(scheduler.timesteps), noise=noise, seed=seed,
        dtype=dtype, latent_dtype=latent_dtype, shard=shard,
    )  # fmt: skip


def _computed_in(prior: Prior) -> str:
    """Return the dtype in which the prior computes, "tf32" for float32 with such products."""
    return "tf32" if prior.dtype == torch.float32 and tf32_on(prior.device) else str(prior.dtype).removeprefix("torch.")


def prior_hash(prior: Prior) -> str:
    """Return the hash of the prior's weights and configuration, as the manifest records it."""
    return str(prior.describe()["sha256"])


def computed_by(prior: Prior) -> list[str]:
    """Return the versions, device and dtypes on which the last bits of the prior's results depend."""
    vae = [f"VAE {prior.vae_dtype}"] if prior.vae_dtype not in (None, prior.dtype) else []
    return [version("torch"), version("diffusers"), prior.device.type, str(prior.dtype), *vae, *tf32_on(prior.device)]
