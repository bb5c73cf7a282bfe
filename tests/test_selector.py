"""The estimator of scikit-learn that chooses real images."""

from __future__ import annotations

from contextlib import suppress
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from sklearn.utils.estimator_checks import estimator_checks_generator

import dap
from dap.errors import OptionError
from dap.selection import SELECTORS

CLASSES = ["Dress", "Bag"]


def rows(count=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 3)), rng.choice(["b", "a"], count)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_passes_the_checks_of_scikit_learn():
    checked = 0
    for estimator, check in estimator_checks_generator(dap.Selector(ipc=3)):
        with suppress(SkipTest):  # of what is not installed, or optional
            check(estimator)
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("method", SELECTORS)
def test_each_class_is_represented_by_its_own_rows(method):
    X, y = rows()
    fitted = dap.Selector(method, ipc=3).fit(X, y)
    assert fitted.classes_.tolist() == ["a", "b"] and len(fitted.errors_) == 2
    assert y[fitted.indices_].tolist() == ["a"] * 3 + ["b"] * 3
    assert np.array_equal(fitted.selected_, X[fitted.indices_])
    assert len(set(fitted.indices_.tolist())) == 6


def test_images_are_chosen_as_distill_chooses_them(tmp_path):
    source = dap.open_source("fashion-mini", classes=CLASSES)
    fitted = dap.Selector(ipc=2, seed=3).fit(source)
    made = dap.distill(
        source, method="k_medoids", features="pixels", ipc=2, seed=3, out=tmp_path / "run", progress=False
    )
    ids = [source.ids[index] for index in fitted.indices_]
    images = made.manifest["record"]["images"]
    assert ids == [number for name in CLASSES for number in images[name]]
    assert list(fitted.selected_.ids) == ids and fitted.classes_.tolist() == CLASSES


def test_without_classes_all_rows_are_one():
    X, _ = rows()
    indices = dap.Selector("k_center", ipc=5).fit(X).indices_
    assert len(indices) == 5


def test_parameters_are_those_of_scikit_learn():
    selector = clone(dap.Selector(ipc=3).set_params(method="herding", kernel="rbf"))
    assert selector.get_params() == {
        "method": "herding", "ipc": 3, "kernel": "rbf", "features": "pixels", "seed": 0,
    }  # fmt: skip
    X, y = rows()
    errors = [clone(selector).set_params(**grid).fit(X, y).errors_.mean() for grid in ParameterGrid({"ipc": [1, 10]})]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("options", "X", "y", "message"),
    [
        ({"method": "k_medoid"}, np.eye(3), None, "unknown method 'k_medoid'; did you mean 'k_medoids'?"),
        ({"ipc": 0}, np.eye(3), None, "ipc: expected a whole number of at least 1, got 0"),
        ({}, "fashion-mini", [1], "y: images have their classes; leave it out"),
    ],
)
def test_wrong_parameters_are_named_when_it_is_fitted(options, X, y, message):
    with pytest.raises(OptionError, match=message.replace("?", r"\?").replace("'", ".")):
        dap.Selector(**options).fit(X, y)


def test_a_smaller_class_gives_all_it_has():
    fitted = dap.Selector(ipc=2).fit(np.arange(4.0)[:, None], [0, 0, 0, 1])
    assert fitted.indices_[-1] == 3 and len(fitted.indices_) == 3
