"""guided: the prior's own samples under any sum of terms, and what a term is before it is bound to a run.

A :class:`Guide` is a term as options. ``dap.terms`` names them all; they add, and the sum is a method:
``dap.terms.SetEnergy(scale=1.0) + dap.terms.Mode()``. Each keeps its own window and scale. Energies that act at the
same place share one backward pass (:mod:`dap.sampling`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dap.config import from_options
from dap.errors import OptionError
from dap.methods.base import Context, Unit
from dap.registry import Registry
from dap.sampling import sample

if TYPE_CHECKING:
    from torch import Tensor

    from dap.sampling import Term

__all__ = ["TERMS", "Guide", "Guided", "SingleGuide"]

TERMS: Registry[type[Any]] = Registry("term")


class Guide(ABC):
    """A term as options: a frozen dataclass that prepares itself from the source and is bound to each unit.

    It may also have ``order``, as :class:`dap.methods.Method` may.

    Attributes:
        name: What it is called in JSON.
    """

    name: ClassVar[str]

    @abstractmethod
    def prepare(self, context: Context) -> Any:
        """Whatever is computed once from the source, before the first unit."""

    @abstractmethod
    def term(self, context: Context, unit: Unit, artefact: Any) -> Term:
        """The term that guides the slots of a unit."""

    @abstractmethod
    def record(self, context: Context, artefact: Any) -> dict[str, Any]:
        """What the manifest says about the artefact."""

    def __add__(self, other: Guide | Guided) -> Guided:
        return Guided((*_terms_of(self), *_terms_of(other)))


def _terms_of(summand: Any) -> tuple[Guide, ...]:
    if isinstance(summand, Guided):
        return summand.terms
    if not isinstance(summand, Guide) or hasattr(summand, "make"):
        raise OptionError(f"terms add, methods do not: take the term of {type(summand).__name__} from dap.terms")
    return (summand,)


class SingleGuide:
    """A method that is one term: the prior's own samples, guided by it."""

    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")

    def make(self, context: Context, unit: Unit, artefact: Any) -> Tensor:
        """Guided latents of the unit's slots."""
        assert isinstance(self, Guide)
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit),
            settings=context.settings, terms=[self.term(context, unit, artefact)],
            callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip


@dataclass(frozen=True)
class Guided:
    """The prior's own samples under the sum of some terms.

    Attributes:
        terms: The terms of :mod:`dap.terms`, or mappings such as {"name": "mode", "scale": 0.1}.

    Example:
        >>> import dap
        >>> both = dap.terms.SetEnergy(scale=1.0) + dap.terms.Mode()
        >>> [term.name for term in both.terms]
        ['set_energy', 'mode']
    """

    name: ClassVar[str] = "guided"
    paper: ClassVar[str] = "that of each term"
    year: ClassVar[int | None] = None
    couples: ClassVar[Literal["slot", "class"]] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "set_mode": {"terms": ({"name": "set_energy"}, {"name": "mode"})},
    }

    terms: tuple[Guide, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Sequence) or isinstance(self.terms, str):
            raise OptionError(f"terms: expected a list of terms, got {self.terms!r}")
        terms = tuple(_guide(term) for term in self.terms)
        if not terms:
            raise OptionError("terms: expected at least one of dap.terms; without any it is the method 'dit'")
        object.__setattr__(self, "terms", terms)

    def __add__(self, other: Guide | Guided) -> Guided:
        return Guided((*self.terms, *_terms_of(other)))

    def prepare(self, context: Context) -> tuple[Any, ...]:
        """What each term prepares."""
        return tuple(term.prepare(context) for term in self.terms)

    def make(self, context: Context, unit: Unit, artefact: tuple[Any, ...]) -> Tensor:
        """Guided latents of the unit's slots."""
        pairs = zip(self.terms, artefact, strict=True)
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit),
            settings=context.settings, terms=[guide.term(context, unit, own) for guide, own in pairs],
            callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: tuple[Any, ...]) -> dict[str, Any]:
        """What each term records, in order."""
        return {"terms": [guide.record(context, own) for guide, own in zip(self.terms, artefact, strict=True)]}

    def order(self, context: Context, artefact: tuple[Any, ...], class_index: int, images: Tensor) -> list[int] | None:
        """The order of the first term that has one; see :meth:`dap.methods.Method.order`."""
        for guide, own in zip(self.terms, artefact, strict=True):
            if hasattr(guide, "order"):
                order: list[int] | None = guide.order(context, own, class_index, images)
                return order
        return None


def _guide(term: Any) -> Guide:
    """A term as it is, or from its JSON."""
    if isinstance(term, Mapping):
        options = dict(term)
        name = options.pop("name", None)
        guide: Guide = from_options(TERMS[name], options, f"term {name!r}")
        return guide
    return _terms_of(term)[0]
