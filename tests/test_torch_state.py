"""The caller's torch state neither changes what dap computes nor is changed by it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

import dap
from dap.evaluation import run_protocol
from dap.priors import load_prior
from dap.rng import generator
from dap.sampling import SamplingSettings, sample
from dap.torch_state import own_torch_state

SETTINGS = SamplingSettings(num_inference_steps=2)
IMAGES, LABELS = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8), np.array([0, 0, 1, 1])


class DefaultDtype:
    """A caller that has set another default dtype."""

    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *error: object) -> None:
        assert torch.get_default_dtype() is torch.float64, "it is left as it was"
        torch.set_default_dtype(torch.float32)


class DefaultDevice:
    """A caller that has set another default device."""

    def __enter__(self) -> None:
        torch.set_default_device("meta")

    def __exit__(self, *error: object) -> None:
        assert torch.get_default_device() == torch.device("meta"), "it is left as it was"
        torch.set_default_device(None)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": DefaultDtype, "device": DefaultDevice, "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad, "inference": torch.inference_mode,
}  # fmt: skip


def sampled() -> torch.Tensor:
    prior = load_prior("fashion-dit")
    latents = sample(prior, torch.tensor([3], device="cpu"), [generator(0, "a")], settings=SETTINGS)
    return prior.decode(latents)


def guided() -> bytes:
    """One image of a method that differentiates, and whose references go through the cache."""
    source = dap.open_source("fashion-mini", classes=["Dress"])
    source = source.select(range(8))
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv("DAP_CACHE", f"{folder}/cache")
        dap.distill(source, out=f"{folder}/out", ipc=1, num_inference_steps=3, device="cpu", progress=False)
        return Path(folder, "out/train/Dress/00000.png").read_bytes()


def trained() -> object:
    return run_protocol(IMAGES, LABELS, IMAGES, LABELS, classes=2, device="cpu")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("compute", [sampled, guided, trained])
def test_what_is_computed_does_not_depend_on_the_callers_state(compute: Callable[[], object], state: str) -> None:
    expected = compute()
    with STATES[state]():
        found = compute()
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and torch.equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("state", STATES)
def test_the_state_comes_back_after_an_error(state: str) -> None:
    with STATES[state]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        with pytest.raises(KeyError), own_torch_state():
            assert torch.zeros(2).requires_grad_().sum().dtype is torch.float32
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            raise KeyError
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
