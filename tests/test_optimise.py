"""The resumable training loop: AdamW by its formula, the moving average, and the same bytes after a stop."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from dap import rng
from dap.errors import DivergedError, FormatError
from dap.nets import optimise
from dap.nets.optimisation import learning_rate


def problem():
    """Two parameters, and a loss that draws what it asks for."""
    parameters = {"w": torch.tensor([1.0, -2.0], requires_grad=True), "b": torch.tensor(0.5, requires_grad=True)}

    def loss(draw):
        x = torch.randn(2, generator=draw)
        return ((parameters["w"] * x).sum() + parameters["b"] - 3 * x.sum()).square()

    return parameters, loss


def run(folder, steps, **options):
    parameters, loss = problem()
    trained = optimise(
        parameters, loss, steps=steps, peak_lr=0.1, seed=(7, "test"), checkpoint=folder / "kept.safetensors",
        **options,
    )  # fmt: skip
    return {name: each.detach() for name, each in parameters.items()}, trained


def test_it_is_adamw_by_its_formula(tmp_path):
    """Loshchilov and Hutter 2019, Algorithm 2, in Python floats; gradients of norm above 1 are scaled to 1."""
    found, trained = run(tmp_path, 6, warm_up=2, betas=(0.8, 0.9), weight_decay=0.05, average=0.5)
    w, b = [1.0, -2.0], 0.5
    means, first, second = [1.0, -2.0, 0.5], [0.0] * 3, [0.0] * 3
    for step in range(6):
        x = torch.randn(2, generator=rng.generator(7, "test", step)).tolist()
        inner = w[0] * x[0] + w[1] * x[1] + b - 3 * sum(x)
        gradient = [2 * inner * x[0], 2 * inner * x[1], 2 * inner]
        norm = math.sqrt(sum(each**2 for each in gradient))
        if norm > 1:
            gradient = [each / (norm + 1e-6) for each in gradient]
        rate = 0.1 * min(1, (step + 1) / 2, 2 * (6 - step) / 6)
        values = [*w, b]
        for place, each in enumerate(gradient):
            first[place] = 0.8 * first[place] + 0.2 * each
            second[place] = 0.9 * second[place] + 0.1 * each**2
            corrected = first[place] / (1 - 0.8 ** (step + 1))
            scale = math.sqrt(second[place] / (1 - 0.9 ** (step + 1))) + 1e-8
            values[place] = values[place] * (1 - rate * 0.05) - rate * corrected / scale
        w, b = values[:2], values[2]
        decay = min(0.5, (2 + step) / (11 + step))
        means = [decay * mean + (1 - decay) * value for mean, value in zip(means, values, strict=True)]
    assert found["w"].tolist() == pytest.approx(w, rel=1e-4) and float(found["b"]) == pytest.approx(b, rel=1e-4)
    averages = [*trained.average["w"].tolist(), float(trained.average["b"])]
    assert averages == pytest.approx(means, rel=1e-4)
    assert len(trained.losses) == 1


def test_rates():
    assert [learning_rate(step, 10, 0) for step in (0, 5, 9)] == [1.0, 1.0, 0.2]
    assert learning_rate(0, 1, 5) == 0.2


@pytest.mark.parametrize("average", [None, 0.9])
def test_stopped_training_ends_with_the_same_bytes(average, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, uncut = run(tmp_path / "whole", 9, average=average)
    parameters, loss = problem()
    calls = 0

    def killed(draw):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return loss(draw)

    monkeypatch.setattr("dap.nets.optimisation.SAVE_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        optimise(parameters, killed, steps=9, peak_lr=0.1, seed=(7, "test"), average=average,
                 checkpoint=tmp_path / "cut" / "kept.safetensors")  # fmt: skip
    assert len(load_file(tmp_path / "cut" / "kept.safetensors")["history"]) == 4
    cut, resumed = run(tmp_path / "cut", 9, average=average)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert uncut.average.keys() == resumed.average.keys() == (set() if average is None else {"w", "b"})
    assert all(torch.equal(uncut.average[name], resumed.average[name]) for name in uncut.average)
    assert uncut.losses == resumed.losses
    again, _ = run(tmp_path / "cut", 9, average=average)  # finished: nothing is done
    assert all(torch.equal(again[name], cut[name]) for name in again)


def test_checkpoints_of_something_else_are_refused(tmp_path):
    run(tmp_path, 2)
    with pytest.raises(FormatError, match="not a checkpoint of this training"):
        run(tmp_path, 2, average=0.5)
    (tmp_path / "kept.safetensors").write_bytes(b"damaged")
    with pytest.raises(FormatError, match="damaged"):
        run(tmp_path, 2)
    save_file({"history": torch.zeros(1)}, tmp_path / "kept.safetensors")
    with pytest.raises(FormatError, match="not a checkpoint of this training"):
        run(tmp_path, 2)


def test_losses_that_are_not_finite_end_it(tmp_path):
    parameter = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(DivergedError, match="the loss of step 0 is not finite"):
        optimise({"x": parameter}, lambda draw: parameter / 0, steps=2, peak_lr=1.0, seed=(0,),
                 checkpoint=tmp_path / "x.safetensors")  # fmt: skip
