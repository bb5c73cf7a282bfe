"""The base of the classes that users extend: methods, guides, terms and kernels."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Self

from dap.errors import OptionError

__all__ = ["Seam", "check_class", "missing_parts"]


class Seam(ABC):
    """An abstract base class that names the parts a subclass lacks, as dap's own error, when an object is made.

    Attributes:
        seam: What a subclass is called in errors, such as "term".
        parts: Class attributes that a subclass has to set, beside the abstract methods.

    Raises:
        OptionError: The class of the object lacks an abstract method or one of ``parts``.

    Example:
        >>> from abc import abstractmethod
        >>> class Shape(Seam):
        ...     seam = "shape"
        ...     @abstractmethod
        ...     def area(self): ...
        >>> class Square(Shape): ...
        >>> Square()
        Traceback (most recent call last):
        dap.errors.OptionError: shape Square lacks area
    """

    seam: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Create the object unless its class lacks a part."""
        missing = missing_parts(cls)
        if missing:
            raise OptionError(f"{cls.seam} {cls.__name__} lacks {', '.join(missing)}")
        return super().__new__(cls)


def missing_parts(cls: type[Seam]) -> list[str]:
    """Return the attributes and abstract methods that a class lacks, in the order in which its bases declare them."""
    abstract = [name for base in reversed(cls.__mro__) for name in vars(base) if name in cls.__abstractmethods__]
    return [*(part for part in cls.parts if not hasattr(cls, part)), *dict.fromkeys(abstract)]


def check_class(cls: object, base: type[Seam]) -> None:
    """Raise OptionError unless ``cls`` subclasses ``base``, has every part, and is itself a frozen dataclass."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        name = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise OptionError(f"{base.seam}: expected a subclass of {base.__name__}, got {name}")
    name = f"{cls.seam} {cls.__name__}"
    missing = missing_parts(cls)
    if missing:
        raise OptionError(f"{name} lacks {', '.join(missing)}")
    if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen:
        raise OptionError(f"{name}: write @dataclass(frozen=True) directly above the class: its fields are its options")
