"""Published protocols: their constants by source and line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from protocol_trainings import recipe
from torch import nn

from dap.errors import OptionError
from dap.evaluation import named_protocol
from dap.evaluation import run as run_module
from dap.evaluation.optimiser import parameter_groups
from dap.evaluation.protocols.rded import RDED
from dap.nets import create_net


class TestConstants:
    def test_hard_is_minimaxs(self) -> None:
        """Minimax, argument.py 93-135; train.py 101-108; data.py, transform_imagenet."""
        found = recipe()
        assert (found.size, found.test_side, found.own_size) == (224, 224, False)
        assert (found.optimiser, found.lr, found.momentum, found.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
        assert (found.decay_all, found.batch_size, found.epochs, found.norm) == (True, 64, 2000, "instance")
        assert (found.crop, found.flip, found.jitter, found.lighting, found.cutmix) == (0.5, True, 0.4, 0.1, 1.0)
        assert (found.labels, found.strips, found.grey_padding, found.checks) == ("hard", 1, 3, 100)

    @pytest.mark.parametrize(("ipc", "ten", "hundred"), [
        (1, 3000, 2000), (2, 2000, 1300), (10, 2000, 1300), (11, 1500, 1000), (50, 1500, 1000), (51, 1000, 600),
        (200, 1000, 600), (201, 500, 300), (500, 500, 300), (501, 300, 200),
    ])  # fmt: skip
    def test_epochs(self, ipc: int, ten: int, hundred: int) -> None:
        """Minimax, argument.py 18-43; every epoch table divides into 100 checks."""
        assert (recipe(ipc=ipc).epochs, recipe(ipc=ipc, classes=100).epochs) == (ten, hundred)
        assert recipe(ipc=ipc).checks == recipe(ipc=ipc, classes=100).checks == 100

    @pytest.mark.parametrize(("protocol", "classes", "many"), [
        ("hard", 100, False), ("hard", 101, True), ("hard:idc", 99, False), ("hard:idc", 100, True),
    ])  # fmt: skip
    def test_many_classes(self, protocol: str, classes: int, many: bool) -> None:
        """IDC, argument.py 301-307: from 100 classes on; Minimax, argument.py: above 100."""
        found = recipe(protocol, classes=classes)
        assert (found.lr, found.weight_decay, found.batch_size) == ((0.1, 1e-4, 128) if many else (0.01, 5e-4, 64))

    def test_variants(self) -> None:
        assert [recipe("hard:mgd3", ipc=ipc).epochs for ipc in (10, 20, 100)] == [2000, 1500, 1500]
        assert recipe("hard:mgd3").checks == 2000
        igd = recipe("hard:igd")
        assert (igd.optimiser, igd.lr, igd.weight_decay, igd.size) == ("adamw", 1e-3, 0.01, 256)
        known = {name: run_module.PROTOCOLS[name].known for name in ("hard", "hard:idc", "hard:igd", "rded")}
        assert known == {"hard": "whole", "hard:idc": "whole", "hard:igd": "partly", "rded": "whole"}

    def test_rded(self) -> None:
        """RDED, argument.py 233-315; validation/main.py 87-126, 154, 179-180; validation/utils.py, get_parameters."""
        found = recipe("rded", "resnet18")
        assert (found.optimiser, found.lr, found.weight_decay, found.decay_all) == ("adamw", 1e-3, 0.01, False)
        assert (found.epochs, found.temperature, found.labels, found.second_forward) == (300, 20.0, "teacher", True)
        assert (found.size, found.test_side, found.own_size, found.norm) == (224, 256, True, "batch")
        assert (found.strips, found.crop, found.jitter, found.lighting, found.cutmix) == (2, None, 0, 0, 1.0)
        assert found.grey_padding == recipe("fkd").grey_padding == 3
        assert [recipe("rded", side=side).test_side for side in (32, 64, 224)] == [32, 72, 144]
        assert [epoch for epoch in range(300) if found.is_tested(epoch)] == [249, 259, 269, 279, 289, 299]
        rates = {"vgg11": 5e-4, "efficientnet_b0": 2e-3, "mobilenet_v2": 2.5e-3, "swin_v2_t": 1e-4, "resnet101": 1e-3}
        assert {name: recipe("rded", name).lr for name in rates} == rates
        batches = [(1, 10), (10, 10), (50, 10), (10, 100), (50, 1000), (50, 200)]
        assert [recipe("rded", ipc=ipc, classes=classes).batch_size for ipc, classes in batches] == [
            10, 50, 100, 100, 200, 100,
        ]  # fmt: skip
        cifar = recipe("rded", "convnet3", classes=100, side=32)
        assert (cifar.batch_size, cifar.lr, cifar.size) == (25, 2e-3, 32)

    def test_schedules_are_torchs(self) -> None:
        """Minimax, train.py 107-108; RDED, validation/main.py 95-102."""
        schedules = {
            "steps": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * 50 // 3, 5 * 50 // 6], 0.2),
            "half cosine": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / 50 / 2))
            ),
            "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50),
        }
        for name, make in schedules.items():
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
            schedule, found = make(optimizer), recipe(epochs=50, schedule=name)
            for epoch in range(50):
                assert optimizer.param_groups[0]["lr"] == pytest.approx(found.rate(epoch))
                optimizer.step()
                schedule.step()
        assert recipe("rded").rate(299) == pytest.approx(0.5e-3, rel=0.01)

    def test_options(self) -> None:
        assert recipe(epochs=7).checks == 7
        for options, message in (
            ({"epoch": 3}, "unknown option of protocol 'hard' 'epoch'; did you mean 'epochs'"),
            ({"epochs": 0}, "epochs: expected a whole number"), ({"flip": 1}, "flip: expected true or false"),
            ({"schedule": "step"}, "unknown schedule 'step'; did you mean 'steps'"),
            ({"cutmix": 2}, "cutmix: expected"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                named_protocol("hard", options)
        assert named_protocol("small", {"few_steps": 7}).few_steps == 7


def test_biases_and_norms_decay_only_where_the_source_says_so() -> None:
    net = create_net("convnet3", channels=3, classes=2, size=16, width=4, generator=torch.Generator())
    decayed, spared = parameter_groups(net, recipe("rded"))
    assert all(value.ndim > 1 for value in decayed["params"]) and all(value.ndim == 1 for value in spared["params"])
    assert spared["weight_decay"] == 0
    assert [len(group["params"]) for group in parameter_groups(net, recipe())] == [14]


def test_rded_says_how_it_differs() -> None:
    assert "first 50 of a class" in RDED.differs
