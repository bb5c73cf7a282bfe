"""Published protocols: the training loop, against the references' steps, stopped and continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protocol_trainings import NAMES, TINY, Teacher, recipe, trained
from test_evaluate import arrays
from torch import nn
from torch.nn import functional

from dap import rng
from dap.errors import DivergedError, FormatError, OptionError
from dap.evaluation import evaluate_sets, run_protocol, training
from dap.evaluation.augment import apply, cutmix, draw
from dap.evaluation.checkpoint import read_checkpoint, write_checkpoint
from dap.evaluation.optimiser import parameter_groups
from dap.nets import create_net


class TestLoop:
    def test_is_the_references_loop(self) -> None:
        """Minimax, train.py 100-216: SGD on mixed images, the rate by epoch, the rest as a smaller batch."""
        found, draws = recipe(**TINY | {"batch_size": 8}), rng.generator(5, "evaluate", "convnet3", 0)
        images, labels = arrays({"up": 6, "left": 6})
        net = create_net("convnet3", channels=1, classes=2, size=16, width=4, generator=draws, first_padding=3)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2], 0.2)
        for _ in range(3):
            torch.randint(2**62, (), generator=draws)
            for rows in torch.randperm(12, generator=draws).split(8):
                inputs = apply(torch.tensor(images)[rows], draw(found, len(rows), 16, draws), found)
                torch.rand((), generator=draws)
                partners, share = cutmix(inputs, draws)
                targets = torch.tensor(labels)[rows]
                logits = net(inputs)
                loss = functional.cross_entropy(logits, targets) * share
                loss = loss + functional.cross_entropy(logits, targets[partners]) * (1 - share)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        seen = {}
        original = training.accuracy_on
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "accuracy_on", lambda net, *rest: seen.update(net=net) or original(net, *rest))
            trained(protocol_options=TINY | {"batch_size": 8}, seed=5)
        for name, weights in seen["net"].named_parameters():
            torch.testing.assert_close(weights, net.get_parameter(name), rtol=1e-3, atol=1e-5)

    def test_learns(self) -> None:
        assert trained(protocol_options=TINY | {"epochs": 40, "lr": 0.1, "width": 8}).last > 80

    def test_bfloat16_is_close_to_float32_and_named(self) -> None:
        sets, test = {"a": arrays({"up": 6, "left": 6})}, arrays({"up": 50, "left": 50}, first=100)
        options = TINY | {"epochs": 40, "lr": 0.1, "width": 8}
        results = {
            precision: evaluate_sets(
                sets, test, class_names=NAMES, protocol="hard", repeats=1, device="cpu",
                protocol_options=options | {"precision": precision},
            )
            for precision in ("float32", "bfloat16")
        }  # fmt: skip
        last = {precision: result.rows[0].last[0] for precision, result in results.items()}
        assert min(last.values()) > 80 and abs(last["bfloat16"] - last["float32"]) <= 5
        assert results["bfloat16"].rows[0].constants["precision"] == "bfloat16"
        assert "precision=bfloat16" in results["bfloat16"].table()

    def test_bfloat16_computes_in_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dtypes = []
        loss = training._loss

        def spy(net: nn.Module, *rest: object) -> torch.Tensor:
            handle = net.layers[0].register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
            try:
                return loss(net, *rest)
            finally:
                handle.remove()

        monkeypatch.setattr(training, "_loss", spy)
        trained(protocol_options=TINY | {"precision": "bfloat16"})
        assert set(dtypes) == {torch.bfloat16}

    @pytest.mark.parametrize(
        ("norm", "layout"), [("instance", torch.contiguous_format), ("batch", torch.channels_last)]
    )
    def test_memory_layout_of_a_cpu(self, norm: str, layout: torch.memory_format) -> None:
        net = create_net("convnet3", channels=3, classes=2, size=16, width=4, norm=norm, generator=torch.Generator())
        assert training.memory_layout(net, torch.device("cpu")) == layout
        assert training.memory_layout(net, torch.device("cuda")) == torch.channels_last

    def test_soft_labels_teach_and_statistics_move_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED, validation/main.py 211-226: the labels of the set do not matter, and the images go through twice."""
        nets = []
        original = training.accuracy_on
        monkeypatch.setattr(training, "accuracy_on", lambda net, *rest: nets.append(net) or original(net, *rest))
        images, labels = arrays({"up": 6, "left": 6})
        test, test_labels = arrays({"up": 20, "left": 20}, first=100)
        options = TINY | {
            "epochs": 40,
            "margin": False,
            "strips": 1,
            "flip": False,
            "lr": 0.02,
            "width": 8,
            "cutmix": 0,
        }
        result = run_protocol(images, 1 - labels, test, test_labels, classes=2, protocol="rded", device="cpu",
                              protocol_options=options, teacher=Teacher())  # fmt: skip
        assert result.last > 80
        assert nets[-1].layers[1].num_batches_tracked == 2 * 40

    def test_the_step_is_rdeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED, validation/main.py 211-226: student and teacher see the mixed batch; KLDivLoss(batchmean), T = 20.

        By SGD, because AdamW does not see a factor of the loss. In float64, with the training's own draws.
        """
        weights: list[dict[str, torch.Tensor]] = []
        original = training.accuracy_on

        def spy(net: nn.Module, *rest: object) -> float:
            weights.append({name: value.clone() for name, value in net.state_dict().items()})
            return original(net, *rest)

        monkeypatch.setattr(training, "accuracy_on", spy)
        options = TINY | {"optimiser": "sgd", "lr": 3.0, "margin": False, "batch_size": 5}
        trained("rded", teacher=Teacher(), protocol_options=options)
        found, generator = recipe("rded", **options), rng.generator(0, "evaluate", "convnet3", 0)
        images = torch.tensor(arrays({"up": 6, "left": 6})[0])
        net = create_net("convnet3", channels=1, classes=2, size=16, width=4, norm="batch", generator=generator,
                         first_padding=3).double()  # fmt: skip
        optimizer = torch.optim.SGD(parameter_groups(net, found), lr=3.0, momentum=0.9, weight_decay=0.01)
        for epoch in range(3):
            torch.randint(2**62, (), generator=generator)  # the seed of dropout
            for group in optimizer.param_groups:
                group["lr"] = 3.0 * (1 + np.cos(np.pi * epoch / 6)) / 2
            for rows in torch.randperm(12, generator=generator).split(5):
                mixed = apply(images[rows], draw(found, len(rows), 16, generator), found)
                torch.rand((), generator=generator)  # CutMix has a probability of 1
                cutmix(mixed, generator)
                net(mixed.double())
                target = functional.softmax(Teacher()(mixed).double() / 20, 1)
                output = functional.log_softmax(net(mixed.double()) / 20, 1)
                optimizer.zero_grad()
                nn.KLDivLoss(reduction="batchmean")(output, target).backward()
                optimizer.step()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(weights[-1][name].double(), value.double(), rtol=1e-4, atol=1e-5)
        assert int(net.layers[1].num_batches_tracked) == 2 * 3 * 3

    @pytest.mark.parametrize("network", ["mobilenet_v2"])
    def test_dropout_is_seeded_and_the_callers_random_state_is_left(self, network: str) -> None:
        before = torch.get_rng_state()
        options = {"size": 16, "epochs": 1, "jitter": 0.0}
        first, again = (trained(network=network, protocol_options=options) for _ in range(2))
        assert first == again
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("protocol", ["hard", "rded"])
    def test_a_stopped_training_ends_with_the_same_numbers(
        self, protocol: str, tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"protocol_options": TINY | {"epochs": 6, "cadence": "epoch", "margin": False}}
        options |= {"teacher": Teacher()} if protocol == "rded" else {}
        whole: list[torch.Tensor] = []
        original = training.accuracy_on

        def spy(net: nn.Module, *rest: object) -> float:
            whole.append(net.layers[0].weight.detach().clone())
            return original(net, *rest)

        monkeypatch.setattr(training, "accuracy_on", spy)
        uncut, expected = trained(protocol, **options), whole[-1]
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
        whole.clear()

        def killed(*arguments: object) -> float:
            if len(whole) == 3:
                raise KeyboardInterrupt
            return spy(*arguments)

        monkeypatch.setattr(training, "accuracy_on", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options)
        monkeypatch.setattr(training, "accuracy_on", spy)
        whole.clear()
        assert trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options) == uncut
        assert len(whole) == 3
        assert torch.equal(whole[-1], expected)
        (tmp_path / "kept.safetensors").write_bytes(b"damaged")
        with pytest.raises(FormatError, match="not a checkpoint of this training"):
            trained(protocol, checkpoint=tmp_path / "kept.safetensors", **options)

    def test_a_checkpoint_of_another_training_is_refused(self, tmp_path) -> None:
        kept = tmp_path / "kept.safetensors"
        first = trained(checkpoint=kept)
        assert trained(checkpoint=kept) == first
        for changes in (
            {"seed": 5}, {"protocol_options": TINY | {"lr": 0.5}}, {"protocol_options": TINY | {"epochs": 2}},
            {"network": "convnet4"}, {"weights": np.full(12, 1.0, np.float32)},
        ):  # fmt: skip
            with pytest.raises(FormatError, match="not a checkpoint of this training"):
                trained(checkpoint=kept, **changes)

    def test_a_step_too_small_for_batch_normalisation_is_named(self) -> None:
        options = {"protocol_options": {"size": 32, "epochs": 1, "batch_size": 11}, "network": "mobilenet_v2"}
        test = np.zeros((2, 1, 32, 32), np.uint8), np.array([0, 1])
        images, labels = arrays({"up": 6, "left": 6})
        with pytest.raises(OptionError, match="batch_size: a step with one of 12 images is too small for the batch no"):
            run_protocol(images, labels, *test, protocol="hard", device="cpu", classes=2, **options)

    def test_a_checkpoint_keeps_the_memory_format_of_the_optimisers_state(self, tmp_path) -> None:
        """Sums are rounded in another way in another format, so that a continued training would differ."""
        strides = []
        for read in (False, True):
            net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
            optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
            if read:
                read_checkpoint(tmp_path / "kept.safetensors", net, optimizer, torch.Generator(), identity="a")
            else:
                net(torch.ones(1, 3, 3, 3)).sum().backward()
                optimizer.step()
                write_checkpoint(tmp_path / "kept.safetensors", net, optimizer, torch.Generator(), 1, [], identity="a")
            strides.append(optimizer.state[net.weight]["momentum_buffer"].stride())
        assert strides == [(27, 1, 9, 3)] * 2

    def test_a_loss_that_is_not_finite_is_named(self) -> None:
        with pytest.raises(DivergedError, match=r"the loss of epoch \d of 3 is (nan|inf) .*lower the option lr"):
            trained(protocol_options=TINY | {"lr": 1e30})
        with pytest.raises(DivergedError, match=r"the loss of a classifier is (nan|inf) after 9 steps .*peak_lr"):
            trained("small", protocol_options={"few_steps": 9, "peak_lr": 1e30, "checks": 1})

    def test_refusals(self) -> None:
        images, labels = arrays({"up": 3, "left": 3})
        for changes, message in (
            ({"protocol": "rded"}, "protocol 'rded' trains on the labels of a teacher: give teacher="),
            ({"teacher": Teacher()}, "protocol 'hard' trains on hard labels: leave teacher= out"),
            ({"protocol": "small", "protocol_options": None, "teacher": Teacher()}, "'small' trains on hard labels"),
            ({"protocol_options": {"size": 32}}, r"expected uint8 test images with shape \(40, 1, 32, 32\), got uint8"),
            ({"classes": 1}, "expected labels in 0 … 0, got 0 … 1"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                trained(**changes)
        with pytest.raises(OptionError, match="expected test labels in 0 … 1, got 0 … 2"):
            run_protocol(images, labels, images, 2 * labels, classes=2, protocol="hard", protocol_options=TINY)
