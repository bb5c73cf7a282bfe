"""Class name, source id and the prior's label: one explicit map, and no silent mismatch."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from dap.data.classmap import ClassEntry, build_class_map, from_json, to_json
from dap.data.source import Source
from dap.errors import ClassMapError, FormatError, OptionError


def source(names: Sequence[str]) -> Source:
    return Source(
        name="set",
        class_names=tuple(names),
        source_ids=tuple(range(10, 10 + len(names))),
        labels=np.arange(len(names)),
        ids=[str(number) for number in range(len(names))],
        load=lambda index: Image.new("L", (8, 8)),
    )


def labels(names: Sequence[str], known: dict[str, int]) -> list[int | None]:
    return [entry.prior_label for entry in build_class_map(source(names), known)]


def test_the_map_keeps_four_names_apart() -> None:
    entries = build_class_map(source(["T-shirt/top", "Bag"]), {"Bag": 8, "T-shirt/top": 0, "Coat": 4})
    assert entries == (ClassEntry("T-shirt/top", 10, 0, "T-shirt%2Ftop"), ClassEntry("Bag", 11, 8, "Bag"))
    (entry,) = build_class_map(source(["anything"]), None)
    assert entry.prior_label is None and entry.label == 0


def test_exact_names_win_over_case() -> None:
    known = {"Crane": 1, "crane": 2, "BAG": 3}
    assert labels(["crane", "Crane", "bag"], known) == [2, 1, 3]
    with pytest.raises(ClassMapError, match="'CRANE'"):
        labels(["CRANE"], known)  # leads to two labels


def test_synonyms() -> None:
    known = {"tench": 0, "Tinca tinca": 0, "goldfish": 1}
    assert labels(["tench, Tinca tinca", "goldfish, Carassius auratus"], known) == [0, 1]
    with pytest.raises(ClassMapError):
        labels(["tench, goldfish"], known)


def test_an_unknown_class_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ClassMapError) as caught:
        labels(["Bag", *(f"odd {number}" for number in range(8))], {"Bag": 8, "Coat": 4})
    message = str(caught.value)
    assert "8 of 9 classes" in message and "'odd 0'" in message and "and 3 more" in message and "'odd 7'" not in message
    assert "'Bag', 'Coat'" in message and "classes=" in message and "rename" in message and "\n" not in message


def test_two_classes_to_one_label_is_an_error() -> None:
    with pytest.raises(ClassMapError, match="'bag', 'BAG' to label 8"):
        labels(["bag", "BAG"], {"Bag": 8})
    with pytest.raises(ClassMapError, match="to label 0"):
        labels(["tench", "Tinca tinca"], {"tench": 0, "Tinca tinca": 0})


def test_the_map_survives_json() -> None:
    entries = build_class_map(source(["T-shirt/top", "Bag"]), {"Bag": 8, "T-shirt/top": 0})
    assert from_json(json.loads(json.dumps(to_json(entries)))) == entries


@pytest.mark.parametrize(
    "change",
    [{"folder": "../../etc"}, {"name": 3}, {"prior_label": "0"}, {"source_id": None}, {"extra": 1}, {"folder": None}],
)
def test_a_damaged_map_is_a_format_error(change: dict[str, object]) -> None:
    value = {"name": "Bag", "source_id": 0, "prior_label": None, "folder": "Bag"}
    assert from_json([value])[0].name == "Bag"
    with pytest.raises(FormatError, match="damaged class map"):
        from_json([{**value, **change}])
    with pytest.raises(FormatError, match="damaged class map"):
        from_json(value)


def test_a_label_map_comes_first() -> None:
    known = {"Bag": 8, "Coat": 4, "Dress": 3}
    entries = build_class_map(source(["anorak", "Bag", "gown"]), known, {"anorak": "Coat", "gown": 3})
    assert [entry.prior_label for entry in entries] == [4, 8, 3]
    assert [entry.name for entry in entries] == ["anorak", "Bag", "gown"]
    assert build_class_map(source(["Bag"]), known, {"Bag": "Dress"})[0].prior_label == 3
    with pytest.raises(ClassMapError, match="'anorak', 'Coat' to label 4"):
        build_class_map(source(["anorak", "Coat"]), known, {"anorak": "Coat"})
    with pytest.raises(OptionError, match="unknown class in label_map 'anorka'; did you mean 'anorak'"):
        build_class_map(source(["anorak"]), known, {"anorka": "Coat"})
    with pytest.raises(OptionError, match="unknown label for class 'anorak' in label_map 'Coot'; did you mean 'Coat'"):
        build_class_map(source(["anorak"]), known, {"anorak": "Coot"})
    with pytest.raises(OptionError, match="class 'anorak': the prior has no label 5"):
        build_class_map(source(["anorak"]), known, {"anorak": 5})
