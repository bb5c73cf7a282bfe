"""A choice of real images, or of any rows of features, as an estimator of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.config import check_choice, check_seed, check_whole
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import Encoder, encoder_by_name
from dap.features.encoders import with_labels
from dap.kernels import Kernel
from dap.rng import derive_seed
from dap.selection import SELECTORS, Selection

try:
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_array, validate_data
except ImportError as error:
    raise OptionError("dap.Selector needs scikit-learn: pip install 'dap-distill[sklearn]'") from error

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Selector"]


class Selector(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Chooses rows that represent each class, by a function of :mod:`dap.selection`.

    It is fitted to features of your own, ``fit(X, y)``, or to real images, ``fit(source)``. ``get_params``,
    ``set_params`` and ``clone`` are scikit-learn's.

    Args:
        method: "k_medoids", "herding", "thinning", "k_center", "facility_location", "k_means_centroids" (the rows
            nearest to the centroids) or "random".
        ipc: Rows of each class; a class with fewer gives all it has.
        kernel: A kernel of :mod:`dap.kernels` or its name; None: that of the method.
        features: The features of images, for ``fit(source)``: "pixels", a model of timm by name, or a
            :class:`dap.features.Encoder`.
        seed: Root of the random draws.

    Attributes:
        indices_: The chosen rows, int64 (n,), class after class, in the order in which they were chosen.
        classes_: The classes in the order of ``indices_``: the values of ``y``, or the names of the source's classes.
        errors_: The error of each class, float64 (classes,): the maximum mean discrepancy of the choice to all rows of
            the class.
        selected_: ``X[indices_]``; or the chosen images as a :class:`dap.data.source.Source`.
        n_features_in_: D.

    Example:
        >>> from dap.selector import Selector
        >>> X, y = np.array([[0.0], [1.0], [2.0], [9.0]]), ["a", "a", "a", "b"]
        >>> Selector(ipc=1).fit(X, y).indices_
        array([1, 3])
    """

    indices_: npt.NDArray[np.int64]
    classes_: np.ndarray
    errors_: npt.NDArray[np.float64]
    selected_: np.ndarray | Source
    n_features_in_: int

    def __init__(
        self, method: str = "k_medoids", ipc: int = 10, *, kernel: Kernel | str | None = None,
        features: str | Encoder = "pixels", seed: int = 0,
    ) -> None:  # fmt: skip
        self.method = method
        self.ipc = ipc
        self.kernel = kernel
        self.features = features
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> Selector:
        """Choose rows.

        Args:
            X: Features, finite real numbers (N, D); or real images, whatever :func:`dap.open_source` opens: a folder,
                a torch ``Dataset``, a name.
            y: The class of each row, (N,); None: all rows are of one class. Images have theirs already.

        Raises:
            OptionError: A parameter is unknown or outside its range, or ``y`` is given with images.
            ValueError: X is not what it has to be, as scikit-learn says it.
        """
        check_choice("method", self.method, SELECTORS)
        check_whole("ipc", self.ipc)
        check_seed(self.seed)
        if _is_source(X):
            return self._fit_source(X, y)
        if y is None:
            rows, labels = validate_data(self, X, dtype=(np.float64, np.float32)), None
        else:
            rows, labels = validate_data(self, X, y, dtype=(np.float64, np.float32))
        classes = np.array([0]) if labels is None else np.unique(labels)
        members = [np.arange(len(rows)) if labels is None else np.flatnonzero(labels == one) for one in classes]
        self._choose(classes, [(indices, rows[indices]) for indices in members])
        self.selected_ = rows[self.indices_]
        return self

    def _fit_source(self, images: SourceLike, y: Any) -> Selector:
        if y is not None:
            raise OptionError("y: images have their classes; leave it out, or give features as X")
        source = open_source(images)
        encoder = encoder_by_name(self.features) if isinstance(self.features, str) else self.features
        encoder, labels = with_labels(encoder, source)
        members = [source.of_class(number) for number in range(len(source.class_names))]
        rows = [
            check_array(encoder.rows(source, indices, label=label))
            for indices, label in zip(members, labels, strict=True)
        ]
        self.n_features_in_ = rows[0].shape[1]
        self._choose(np.array(source.class_names), list(zip(members, rows, strict=True)))
        self.selected_ = source.select(self.indices_)
        return self

    def _choose(self, classes: np.ndarray, members: list[tuple[npt.NDArray[np.int64], np.ndarray]]) -> None:
        """Choose among the rows of each class, which are given with their indices."""
        chosen = [self._select(str(name), rows) for name, (_, rows) in zip(classes, members, strict=True)]
        pairs = zip(members, chosen, strict=True)
        self.indices_ = np.concatenate([indices[selection.indices] for (indices, _), selection in pairs])
        self.errors_ = np.array([selection.error for selection in chosen])
        self.classes_ = classes

    def _select(self, name: str, rows: np.ndarray) -> Selection:
        kernel = {} if self.kernel is None else {"kernel": self.kernel}
        seed = derive_seed(self.seed, self.method, name)
        return SELECTORS[self.method](rows, min(self.ipc, len(rows)), seed=seed, **kernel)


def _is_source(X: object) -> bool:
    """Return whether X is a name, a folder or an object with images, and no array, list or frame of numbers."""
    from torch.utils.data import Dataset

    return isinstance(X, str | Path | Source | Dataset)
