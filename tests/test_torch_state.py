"""The caller's torch state neither changes what dap computes nor is changed by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

import dap
from dap import torch_state
from dap.evaluation import run_protocol
from dap.priors import load_prior
from dap.rng import generator
from dap.sampling import SamplingSettings, sample
from dap.torch_state import own_torch_state, tf32_on

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


@cache
def expected(compute: Callable[[], object]) -> object:
    """What is computed where the caller's state is torch's own."""
    return compute()


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
    options = {"few_steps": 40}
    return run_protocol(IMAGES, LABELS, IMAGES, LABELS, classes=2, device="cpu", protocol_options=options)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("compute", [sampled, guided, trained])
def test_what_is_computed_does_not_depend_on_the_callers_state(compute: Callable[[], object], state: str) -> None:
    right = expected(compute)
    with STATES[state]():
        found = compute()
    if isinstance(right, torch.Tensor):
        assert isinstance(found, torch.Tensor) and torch.equal(found, right)
    else:
        assert found == right


@pytest.mark.parametrize("state", STATES)
def test_the_state_comes_back_after_an_error(state: str) -> None:
    with STATES[state]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        with pytest.raises(KeyError), own_torch_state():
            assert torch.zeros(2).requires_grad_().sum().dtype is torch.float32
            assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
            raise KeyError
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))


# --- the precision of float32 -----------------------------------------------------------------------------------------

PRODUCTS, CONVOLUTIONS, ON_CPU = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
NEW = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch 2.9 has these options")


def precision() -> list[object]:
    """All that torch says; an older option that cannot be read, because a newer one is set, is None."""
    said: list[object] = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: PRODUCTS.allow_tf32,
        lambda: CONVOLUTIONS.allow_tf32,
        *(lambda backend=backend, name=name: getattr(backend, name).fp32_precision  # type: ignore[misc]
          for backend, name in ((torch.backends.cuda, "matmul"), (CONVOLUTIONS, "conv"), (CONVOLUTIONS, "rnn"),
                                (ON_CPU, "matmul"), (ON_CPU, "conv"), (ON_CPU, "rnn"))
          if hasattr(torch.backends, "fp32_precision")),
    ):  # fmt: skip
        try:
            said.append(read())
        except RuntimeError:
            said.append(None)
    return said


def guarded(tf32: bool | None) -> list[object]:
    with own_torch_state(tf32=tf32):
        return precision()


@pytest.fixture
def precision_comes_back() -> Iterator[None]:
    restore = torch_state._saved_precision()
    yield
    restore()


def newer(backend: str, operation: str, value: str) -> Callable[[], None]:
    return lambda: setattr(getattr(getattr(torch.backends, backend), operation), "fp32_precision", value)


@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        *(lambda name=name: torch.set_float32_matmul_precision(name) for name in ("highest", "high", "medium")),
        lambda: setattr(PRODUCTS, "allow_tf32", True),
        lambda: setattr(CONVOLUTIONS, "allow_tf32", False),
        *(pytest.param(newer(*new), marks=NEW) for new in (
            ("cuda", "matmul", "tf32"), ("cudnn", "conv", "ieee"), ("cudnn", "rnn", "ieee"),
            ("mkldnn", "matmul", "bf16"), ("mkldnn", "conv", "bf16"),
        )),
    ],
)  # fmt: skip
def test_the_callers_precision_of_float32_is_neither_used_nor_changed(
    change: Callable[[], None], precision_comes_back: None
) -> None:
    expected = [guarded(tf32) for tf32 in (None, True, False)]
    change()
    before = precision()
    assert [guarded(tf32) for tf32 in (None, True, False)] == expected
    with pytest.raises(ZeroDivisionError), own_torch_state(tf32=True):
        raise ZeroDivisionError
    assert precision() == before


def test_tf32_is_what_the_guard_says() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for tf32, products, convolutions in ((None, False, True), (True, True, True), (False, False, False)):
        with own_torch_state(tf32=tf32):
            for _ in range(2):
                assert (PRODUCTS.allow_tf32, CONVOLUTIONS.allow_tf32) == (products, convolutions)
                assert tf32_on(gpu) == (["tf32"] if tf32 else []) and tf32_on(cpu) == []
                with own_torch_state():  # of a function that is called inside
                    assert (PRODUCTS.allow_tf32, CONVOLUTIONS.allow_tf32) == (products, convolutions)
                with own_torch_state(tf32=not tf32):
                    assert PRODUCTS.allow_tf32 != products or tf32 is None
    assert tf32_on(gpu) == []


def test_guards_of_two_threads_bring_the_callers_precision_back() -> None:
    before, first, second = precision(), own_torch_state(tf32=True), own_torch_state(tf32=False)
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with second:
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with first:
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert precision() == before


def test_runs_compute_in_what_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on a CPU has no TF32, and does not say that it has."""
    seen = []
    monkeypatch.setattr("dap.run.local.own_torch_state", lambda tf32: seen.append(tf32) or own_torch_state(tf32))
    monkeypatch.setattr("dap.run.index_build.own_torch_state", lambda tf32: seen.append(tf32) or own_torch_state(tf32))
    source = dap.open_source("fashion-mini", classes=["Dress"]).select(range(2))
    options = {"num_inference_steps": 1, "device": "cpu", "progress": False, "tf32": True}
    manifest = dap.distill(source, out=tmp_path / "out", method="dit", ipc=1, **options).manifest
    assert "tf32" not in manifest["options"]
    index = dap.build_index(source, out=tmp_path / "index", **options)
    assert index.spec.computed_in == "float32" and seen == [False, True]
