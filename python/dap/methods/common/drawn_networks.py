"""Networks that steps of guidance draw: with random weights, or at a state of a training on the real images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dap import rng
from dap.config import check_whole
from dap.errors import OptionError
from dap.methods.base import Context
from dap.methods.common.cached_networks import TrainedStates, prepare_states
from dap.methods.common.network_memory import features_bytes, states_bytes, training_bytes
from dap.nets import Network, check_network, create_net, training_obstacle

__all__ = ["NetworkOptions"]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which networks a step draws: the base of guides that have these options.

    :class:`dap.methods.common.network_guide.NetworkKernel` explains them.
    """

    networks: str | tuple[str, ...] = ()
    width: int = 32
    epochs: int = 0
    trainings: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.networks, str | Sequence):
            raise OptionError(f"networks: expected a name or a list of names, got {self.networks!r}")
        networks = (self.networks,) if isinstance(self.networks, str) else tuple(self.networks)
        for network in networks:
            if isinstance(network, str) and "," in network:
                names = json.dumps([name.strip() for name in network.split(",")])
                raise OptionError(f"networks: several names are a list, networks={names}, got {network!r}")
            check_network(network)
        object.__setattr__(self, "networks", networks)
        for option in ("width", "trainings"):
            check_whole(option, getattr(self, option))
        check_whole("epochs", self.epochs, 0)
        if self.epochs == 1:
            raise OptionError("epochs: expected 0, for random networks, or at least 2, got 1")

    def kinds(self, shape: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the names of the networks that take turns, for images or latents (C, H, W)."""
        blocks = int(math.log2(shape[1])) - 2
        return tuple(self.networks) or (f"convnet{min(max(blocks, 3), 6)}",)

    def check_networks(self, context: Context, shape: tuple[int, int, int]) -> None:
        """Raise OptionError if a network does not take images or latents of a shape (C, H, W), or cannot be trained."""
        if self.epochs and len(context.classes) < 2:
            raise OptionError(
                "epochs: networks are trained to tell classes apart; give two classes or more, "
                "or epochs=0 and verdict=0"
            )
        for turn, kind in enumerate(self.kinds(shape)):
            net = self.random_network(context, shape, turn, 0, 0)
            obstacle = training_obstacle(net, shape) if self.epochs else None
            if obstacle:
                raise OptionError(
                    f"networks: {kind} has {obstacle}, and such networks cannot be trained; take others, such as "
                    "'convnet3', 'resnet_ap10' or 'vit_b_16', or epochs=0 and verdict=0"
                )

    def trained(self, context: Context) -> tuple[TrainedStates, ...]:
        """Train the networks of each kind, or find them in the cache; return nothing if their weights are random."""
        if not self.epochs:
            return ()
        kinds = self.kinds((context.channels, context.size, context.size))
        return tuple(prepare_states(context, kind, self.width, self.epochs, self.trainings) for kind in kinds)

    def drawn(
        self,
        context: Context,
        shape: tuple[int, int, int],
        trained: tuple[TrainedStates, ...],
        turn: int,
        step: int,
        draw: int,
    ) -> Network:
        """Return a network, to be evaluated and not trained: a random state of a training, or random weights.

        Args:
            context: The run.
            shape: Of what it sees, (C, H, W).
            trained: The states of :meth:`trained`.
            turn: It decides the kind of network.
            step: With ``draw``, it seeds the choice of the state, or the weights.
            draw: See ``step``.
        """
        if not trained:
            return self.random_network(context, shape, turn, step, draw)
        states, draws = trained[turn % len(trained)], rng.generator(context.seed, "dap_networks", "state", step, draw)
        training, state = (int(torch.randint(count, (1,), generator=draws)) for count in states.weights.shape[:2])
        return states.network(training, state)

    def judge(self, context: Context, trained: tuple[TrainedStates, ...], turn: int, step: int, draw: int) -> Network:
        """Return the end of a random training; arguments as of :meth:`drawn`."""
        states, draws = trained[turn % len(trained)], rng.generator(context.seed, "dap_networks", "judge", step, draw)
        return states.network(int(torch.randint(self.trainings, (1,), generator=draws)), -1)

    def random_network(self, context: Context, shape: tuple[int, int, int], turn: int, step: int, draw: int) -> Network:
        """Return a network of random weights, without dropout, which sees each image by itself."""
        channels, size, _ = shape
        kinds = self.kinds(shape)
        net = create_net(
            kinds[turn % len(kinds)], width=self.width, channels=channels, classes=1, size=size,
            generator=rng.generator(context.seed, "dap_networks", "network", step, draw),
        )  # fmt: skip
        return net.eval().requires_grad_(False)

    def features_bytes(self, context: Context, shape: tuple[int, int, int]) -> int:
        """Return the memory that the features of the largest kind take for each image with a graph to it."""
        nets = [self.random_network(context, shape, turn, 0, 0) for turn in range(len(self.kinds(shape)))]
        return max(features_bytes(net, shape) for net in nets)

    def training_bytes(self, context: Context) -> int:
        """Return the memory of training the largest kind; 0 if their weights are random."""
        kinds = self.kinds((context.channels, context.size, context.size)) if self.epochs else ()
        return max((training_bytes(context, kind, self.width) for kind in kinds), default=0)

    def states_bytes(self, context: Context) -> int:
        """Return the bytes of the states of all trainings; 0 if the weights are random."""
        kinds = self.kinds((context.channels, context.size, context.size)) if self.epochs else ()
        return self.trainings * sum(states_bytes(context, kind, self.width, self.epochs) for kind in kinds)
