"""Guides: the options of terms, before a run is known. Guides can be added; the sum is the method ``guided``.

``dap.terms`` has all of them: ``dap.terms.SetEnergy(scale=1.0) + dap.terms.Mode()``. In a sum each keeps its window and
scale. Energies that act at the same place share one backward pass (:mod:`dap.sampling`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from dap.config import from_options
from dap.errors import OptionError
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.priors import Demand
from dap.registry import Registry
from dap.seams import Seam, check_class

if TYPE_CHECKING:
    from torch import Tensor

    from dap.sampling import Term

__all__ = ["TERMS", "AnyGuide", "Guide", "Guided", "SingleGuide"]

A = TypeVar("A")


class Guide(Seam, Generic[A]):
    """The base class of guides: a subclass is a frozen dataclass, whose fields are the options of a term.

    ``A`` is the type of the artefact that it prepares.

    Attributes:
        name: The name of the guide in JSON.
        version: As in :class:`dap.methods.Method`.
    """

    seam: ClassVar[str] = "guide"
    parts: ClassVar[tuple[str, ...]] = ("name",)

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    name: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def prepare(self, context: Context) -> A:
        """Compute, once and before the first unit, what the term takes from the source."""

    @abstractmethod
    def term(self, context: Context, unit: Unit, artefact: A) -> Term:
        """Return the term that guides the slots of a unit."""

    @abstractmethod
    def record(self, context: Context, artefact: A) -> Record:
        """Return what the manifest says about the artefact."""

    def demand(self, context: Context) -> Demand:
        """Return what the term needs of the prior, for the plan of memory; the default is a graph through all of it."""
        return Demand(denoiser=True)

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of the preparation; see :meth:`dap.methods.Method.preparation_bytes`."""
        return context.prior.encoding_bytes

    def disk(self, context: Context) -> int:
        """Return about how many bytes the preparation writes to the cache; see :meth:`dap.methods.Method.disk`."""
        return 0

    def order(self, context: Context, artefact: A, class_index: int, images: Tensor) -> list[int] | None:
        """Return the slot numbers of a class, best first, or None; see :meth:`dap.methods.Method.order`."""
        return None

    def shared(self) -> str | None:
        """Return what all classes of a run share, or None; see :meth:`dap.methods.Method.shared`."""
        return None

    def __add__(self, other: AnyGuide | Guided) -> Guided:
        return Guided((*_guides_of(self), *_guides_of(other)))


AnyGuide: TypeAlias = Guide[Any]  # a guide with any type of artefact


def check_guide(cls: type[AnyGuide]) -> None:
    """Raise OptionError unless ``cls`` is a class of guides and not of methods: only guides can be added."""
    check_class(cls, Guide)
    if issubclass(cls, Method):
        raise OptionError(f"guide {cls.__name__}: it is a method; register it with dap.register_method")


TERMS: Registry[type[AnyGuide]] = Registry("term", check=check_guide)


class SingleGuide(Guide[A], Method[A]):
    """A method that is one guide: the prior's own samples, guided by its term.

    Name the guide first: ``class MGD3(Mode, SingleGuide[Modes])``.
    """

    seam: ClassVar[str] = "method"
    parts: ClassVar[tuple[str, ...]] = Method.parts
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return what the term needs of the prior."""
        return (self.demand(context),)

    def terms_of(self, context: Context, unit: Unit, artefact: A) -> list[Term]:
        """Return the term that guides the slots of a unit."""
        return [self.term(context, unit, artefact)]

    def make(self, context: Context, unit: Unit, artefact: A) -> Tensor:
        """Return guided latents of the unit's slots."""
        return context.sample(unit, self.terms_of(context, unit, artefact))


@dataclass(frozen=True)
class Guided(Method[tuple[object, ...]]):
    """The prior's samples, guided by the sum of the terms of several guides.

    Attributes:
        terms: The guides of :mod:`dap.terms`, or mappings such as {"name": "mode", "scale": 0.1}.

    Example:
        >>> import dap
        >>> both = dap.terms.SetEnergy(scale=1.0) + dap.terms.Mode()
        >>> [term.name for term in both.terms]
        ['set_energy', 'mode']
    """

    name: ClassVar[str] = "guided"
    paper: ClassVar[str] = "that of each term"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {
        "set_mode": {"terms": ({"name": "set_energy"}, {"name": "mode"})},
    }

    terms: tuple[AnyGuide, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Sequence) or isinstance(self.terms, str):
            raise OptionError(f"terms: expected a list of terms, got {self.terms!r}")
        terms = tuple(_guide(term) for term in self.terms)
        if not terms:
            raise OptionError("terms: expected at least one of dap.terms; without any it is the method 'dit'")
        object.__setattr__(self, "terms", terms)

    def __add__(self, other: AnyGuide | Guided) -> Guided:
        return Guided((*self.terms, *_guides_of(other)))

    def versions(self) -> Mapping[str, int]:
        """Return the versions of the terms, by name, that are not the first."""
        return {guide.name: guide.version for guide in self.terms if guide.version > 1}

    def prepare(self, context: Context) -> tuple[object, ...]:
        """Return the artefact of each guide."""
        return tuple(guide.prepare(context) for guide in self.terms)

    def terms_of(self, context: Context, unit: Unit, artefact: tuple[object, ...]) -> list[Term]:
        """Return the terms that guide the slots of a unit."""
        pairs = zip(self.terms, artefact, strict=True)
        return [guide.term(context, unit, prepared) for guide, prepared in pairs]

    def make(self, context: Context, unit: Unit, artefact: tuple[object, ...]) -> Tensor:
        """Return guided latents of the unit's slots."""
        return context.sample(unit, self.terms_of(context, unit, artefact))

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return what the terms need of the prior, all at once."""
        return (reduce(or_, (guide.demand(context) for guide in self.terms)),)

    def preparation_bytes(self, context: Context) -> int:
        """Return the most memory that the preparation of a guide takes."""
        return max(guide.preparation_bytes(context) for guide in self.terms)

    def disk(self, context: Context) -> int:
        """Return about how many bytes the preparation of all guides writes to the cache."""
        return sum(guide.disk(context) for guide in self.terms)

    def record(self, context: Context, artefact: tuple[object, ...]) -> Record:
        """Return the record of each guide, in order."""
        pairs = zip(self.terms, artefact, strict=True)
        return {"terms": [guide.record(context, prepared) for guide, prepared in pairs]}

    def shared(self) -> str | None:
        """Return what the classes share in the first guide that shares something."""
        return next((shared for guide in self.terms if (shared := guide.shared())), None)

    def order(
        self, context: Context, artefact: tuple[object, ...], class_index: int, images: Tensor
    ) -> list[int] | None:
        """Return the order of the first guide that has one; see :meth:`dap.methods.Method.order`."""
        pairs = zip(self.terms, artefact, strict=True)
        orders = (guide.order(context, prepared, class_index, images) for guide, prepared in pairs)
        return next((order for order in orders if order is not None), None)


def _guides_of(summand: object) -> tuple[AnyGuide, ...]:
    if isinstance(summand, Guided):
        return summand.terms
    if not isinstance(summand, Guide) or isinstance(summand, Method):
        raise OptionError(f"terms add, methods do not: take the term of {type(summand).__name__} from dap.terms")
    return (summand,)


def _guide(term: object) -> AnyGuide:
    """Return a guide as it is, or from its JSON."""
    if isinstance(term, Mapping):
        options = dict(term)
        name = options.pop("name", None)
        return from_options(TERMS[name], options, f"term {name!r}")
    return _guides_of(term)[0]
