"""What a method needs of a prior's networks, and the memory that this takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Demand", "StepBytes"]


@dataclass(frozen=True)
class Demand:
    """What a stage of a method's step needs beside a noise estimate.

    Attributes:
        taps: Blocks of the denoiser, from 1, to whose output a graph leads.
        denoiser: Whether a graph leads through the whole denoiser.
        decoder: Whether a graph leads through the decoder.
        own: Bytes that the method itself holds for each slot.
        fixed: Bytes that it holds whatever the number of slots.
    """

    taps: frozenset[int] = frozenset()
    denoiser: bool = False
    decoder: bool = False
    own: int = 0
    fixed: int = 0

    def __or__(self, other: Demand) -> Demand:
        return Demand(
            self.taps | other.taps, self.denoiser or other.denoiser, self.decoder or other.decoder,
            self.own + other.own, self.fixed + other.fixed,
        )  # fmt: skip


@dataclass(frozen=True)
class StepBytes:
    """The memory of a step by its number of slots, without the weights.

    Attributes:
        fixed: Bytes whatever the number of slots.
        slot: Bytes for each slot.
        decoded: Bytes for each slot that is decoded with a graph.
        together: The most slots that are decoded together with a graph.
    """

    fixed: int
    slot: int
    decoded: int = 0
    together: int = 1

    def of(self, slots: int) -> int:
        """Return the bytes of a step of some slots."""
        return self.fixed + slots * self.slot + min(slots, self.together) * self.decoded

    def fit(self, available: int) -> int:
        """Return the most slots whose step fits the bytes that are available, at least 1.

        Example:
            >>> StepBytes(fixed=10, slot=5, decoded=20, together=2).fit(100), StepBytes(0, 10).fit(5)
            (10, 1)
        """
        few = (available - self.fixed) // max(1, self.slot + self.decoded)
        many = (available - self.fixed - self.together * self.decoded) // max(1, self.slot)
        return max(1, few if few < self.together else many)
