"""Labels and class names as other people's data has them: kept or refused, and alike in all parts of a set."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from dap._core import TarWriter
from dap.data.class_list import class_list
from dap.data.open import open_source
from dap.data.source import Source
from dap.errors import DapError, FormatError, OptionError, SourceError


def picture(value: int = 0) -> Image.Image:
    return Image.new("L", (8, 8), value)


def png(value: int = 0) -> bytes:
    stream = io.BytesIO()
    picture(value).save(stream, "PNG")
    return stream.getvalue()


def names_of(source: Source) -> list[str]:
    """The class name of each image."""
    return [source.class_names[label] for label in source.labels]


def tar(path: Path, labels: list[str], member: str = "cls") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = TarWriter(path)
    for number, label in enumerate(labels):
        writer.append([(f"{number:03d}.{member}", label.encode()), (f"{number:03d}.png", png(number))])
    writer.finish()
    return path


def parquet(path: Path, labels: Any, names: object = None, column: str = "label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([png(number) for number in range(len(labels))], pa.binary())
    table = pa.table({"image": images, column: labels})
    features = {column: {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


class Items(Dataset[Any]):
    """Items in a list, with whatever attributes a test gives it."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def labelled(*labels: object, **attributes: object) -> Items:
    return Items([(picture(number), label) for number, label in enumerate(labels)], **attributes)


class TestPartsAgree:
    """What the first part says is not taken for granted of the others."""

    def test_parquet_class_names(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", [0, 1], ["cat", "dog"])
        parquet(tmp_path / "b.parquet", [0, 1], ["cat", "dog"])
        assert names_of(open_source(tmp_path)) == ["cat", "dog", "cat", "dog"]
        for names in (["dog", "cat"], ["cat", "dog", "cow"], None):
            parquet(tmp_path / "b.parquet", [0, 1], names)
            with pytest.raises(
                SourceError, match=r"b\.parquet: expected the class names of .*a\.parquet, 'cat', 'dog'"
            ):
                open_source(tmp_path)

    def test_parquet_kinds_and_columns(self, tmp_path: Path) -> None:
        parquet(tmp_path / "a.parquet", [0, 1])
        parquet(tmp_path / "b.parquet", ["0", "1"])
        with pytest.raises(SourceError, match=r"b\.parquet: expected the kind of labels .*, numbers, got text"):
            open_source(tmp_path)
        parquet(tmp_path / "b.parquet", [0, 1], column="fine_label")
        with pytest.raises(SourceError, match=r"b\.parquet: expected the columns .*'label', got 'image' and 'fine_lab"):
            open_source(tmp_path)
        parquet(tmp_path / "b.parquet", pa.array([], pa.string()))  # no rows, no labels of another kind
        assert open_source(tmp_path).source_ids == (0, 1)

    @pytest.mark.parametrize("kind", ["tar", "parquet"])
    def test_names_beside_shards_of_two_folders(self, tmp_path: Path, kind: str) -> None:
        for folder in "ab":
            path = tmp_path / folder / f"x.{kind}"
            tar(path, ["0", "1"]) if kind == "tar" else parquet(path, [0, 1])
            (tmp_path / folder / "classes.json").write_text('["cat", "dog"]')
        spec = f"{tmp_path}/{{a,b}}/x.{kind}"
        assert names_of(open_source(spec)) == ["cat", "dog", "cat", "dog"]
        (tmp_path / "b" / "classes.json").write_text('["dog", "cat"]')
        with pytest.raises(SourceError, match=r"/b: expected the class names of .*/a, 'cat', 'dog', got 'dog', 'cat'"):
            open_source(spec)
        (tmp_path / "b" / "classes.json").unlink()
        with pytest.raises(SourceError, match=r"/b: expected the class names of .*/a, 'cat', 'dog', got None"):
            open_source(spec)

    def test_safetensors(self, tmp_path: Path) -> None:
        tensors = {"images": np.zeros((2, 1, 8, 8), np.uint8), "labels": np.array([0, 1])}
        for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
            save_file(tensors, tmp_path / f"{name}.safetensors", {"class_names": json.dumps(classes)})
        with pytest.raises(SourceError, match=r"b\.safetensors: expected the class names of .*a\.safetensors"):
            open_source(tmp_path)

    def test_concatenated_torch_datasets(self) -> None:
        pets = labelled(0, 1, classes=["cat", "dog"])
        assert names_of(open_source(ConcatDataset([pets, Subset(pets, [1])]))) == ["cat", "dog", "dog"]
        assert names_of(open_source(Subset(ConcatDataset([pets, pets]), [3, 0]))) == ["dog", "cat"]
        assert open_source(ConcatDataset([labelled(3), labelled(1)])).source_ids == (1, 3)
        for other in (labelled(0, classes=["dog", "cat"]), labelled(0)):
            with pytest.raises(SourceError, match="part 1: expected the class names of ConcatDataset: part 0, 'cat'"):
                open_source(ConcatDataset([pets, other]))
        with pytest.raises(SourceError, match=r"part 1: expected the kind of labels .*, numbers, got text"):
            open_source(ConcatDataset([labelled(0), labelled("0")]))


class TestTextOfShards:
    @pytest.mark.parametrize(
        ("labels", "names"),
        [(["007", "7"], ["007", "7"]), (["010", "002"], ["010", "002"]), (["10", "2", "0"], ["10", "2", "0"])],
    )
    def test_leading_zeros_stay(self, tmp_path: Path, labels: list[str], names: list[str]) -> None:
        assert names_of(open_source(tar(tmp_path / "x.tar", labels))) == names
        quoted = [json.dumps({"label": label}) for label in labels]
        assert names_of(open_source(tar(tmp_path / "y.tar", quoted, "json"))) == names

    def test_numbers_keep_their_order(self, tmp_path: Path) -> None:
        assert open_source(tar(tmp_path / "x.tar", ["10", "9"])).source_ids == (9, 10)

    def test_padded_numbers_have_the_names_of_their_numbers(self, tmp_path: Path) -> None:
        path = tar(tmp_path / "x.tar", ["000", "001"])
        (tmp_path / "classes.json").write_text('{"cat": 0, "dog": 1}')
        assert names_of(open_source(path)) == ["cat", "dog"]

    def test_numbers_beside_text(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="all numbers or all text, got both: '7' and 'dog'"):
            open_source(tar(tmp_path / "x.tar", ["7", "dog"]))


class TestColumns:
    """Columns of Parquet files and of Hugging Face datasets."""

    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            (pa.array(["dog", "cat", "dog"]).dictionary_encode(), ["dog", "cat", "dog"]),
            (pa.array([5, 3, 5]).dictionary_encode(), ["5", "3", "5"]),
            (pa.array(["dog", "cat", "dog"], pa.large_string()), ["dog", "cat", "dog"]),
            (pa.array(["dog", "cat", "dog"], pa.string_view()), ["dog", "cat", "dog"]),
            (pa.array(["007", "7", "07"]), ["007", "7", "07"]),
            (pa.array([True, False, True]), ["1", "0", "1"]),
            (pa.array([2, 250, 2], pa.uint8()), ["2", "250", "2"]),
        ],
    )
    def test_types_that_are_labels(self, tmp_path: Path, labels: pa.Array, names: list[str]) -> None:
        assert names_of(open_source(parquet(tmp_path / "x.parquet", labels))) == names

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (pa.array([0.2, 0.7, 1.9]), r"found none in the columns .*'label' \(double\)"),
            (pa.array([[1], [0, 2], []]), r"found none in the columns .*'label' \(list<"),
            (pa.array([2**64 - 1, 0, 1], pa.uint64()), "one integer or text as label per image, got float64"),
            (
                pa.array(["cat", None, "cat"]).dictionary_encode(),
                "1 of 3 images have no 'lab",
            ),
        ],
    )
    def test_types_that_are_none(self, tmp_path: Path, labels: pa.Array, message: str) -> None:
        with pytest.raises(DapError, match=message):
            open_source(parquet(tmp_path / "x.parquet", labels))

    def test_a_label_column_of_another_type_is_not_passed_over(self, tmp_path: Path) -> None:
        table = pa.table({"image": [png()], "label": [[0, 1]], "width": [8]})
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(SourceError, match=r"x\.parquet: expected a column 'label'.* of integers, booleans or text"):
            open_source(tmp_path / "x.parquet")

    def test_class_names_in_the_metadata(self, tmp_path: Path) -> None:
        path = parquet(tmp_path / "x.parquet", [0, 1], {"0": "cat", "1": "dog"})
        assert names_of(open_source(path)) == ["cat", "dog"]
        with pytest.raises(FormatError, match=r"x\.parquet: the class names in its metadata: expected a text name"):
            open_source(parquet(path, [0, 1], [1, 2]))

    def test_the_column_is_chosen(self, tmp_path: Path) -> None:
        image, two = [png(), png()], {"fine": [0, 1], "coarse": [7, 7]}
        pq.write_table(pa.table({"image": image, **two}), tmp_path / "x.parquet")
        features = datasets.Features({"image": datasets.Image(), **dict.fromkeys(two, datasets.Value("int64"))})
        rows = [{"bytes": data, "path": None} for data in image]
        theirs = datasets.Dataset.from_dict({"image": rows, **two}, features=features)
        for spec in (tmp_path, tmp_path / "x.parquet", theirs):
            source = open_source(spec, label_column="coarse")
            assert source.source_ids == (7,) and source.name.endswith(" (coarse)")
            with pytest.raises(SourceError, match="choose one with label_column="):
                open_source(spec)
            with pytest.raises(OptionError, match="unknown label column 'curse'; did you mean 'coarse'"):
                open_source(spec, label_column="curse")
        for other in (labelled(0), "fashion-mini", tar(tmp_path / "y" / "x.tar", ["0"]), tmp_path / "y"):
            with pytest.raises(OptionError, match="label column 'fine': only Parquet files and Hugging Face datasets"):
                open_source(other, label_column="fine")

    @pytest.mark.parametrize(
        ("feature", "labels", "names"),
        [
            (datasets.Value("string"), ["dog", "cat"], ["dog", "cat"]),
            (datasets.Value("large_string"), ["007", "7"], ["007", "7"]),
            (datasets.Value("int32"), [5, 3], ["5", "3"]),
            (datasets.Value("bool"), [True, False], ["1", "0"]),
            (datasets.ClassLabel(names=["cat", "dog"]), [1, 0], ["dog", "cat"]),
        ],
    )
    def test_hugging_face_labels(self, feature: Any, labels: list[Any], names: list[str]) -> None:
        images = [{"bytes": png(number), "path": None} for number in range(2)]
        features = datasets.Features({"image": datasets.Image(), "label": feature})
        dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        assert names_of(open_source(dataset)) == names
        assert names_of(open_source(dataset.select([1]).with_format("torch"))) == names[1:]
        missing = datasets.Dataset.from_dict({"image": images, "label": [labels[0], None]}, features=features)
        with pytest.raises(FormatError, match="1 of 2 images have no 'label'"):
            open_source(missing)

    def test_hugging_face_labels_that_are_none(self) -> None:
        images = [{"bytes": png(), "path": None}]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("float32")})
        with pytest.raises(SourceError, match=r"found none in the columns .*'label' \(float\)"):
            open_source(datasets.Dataset.from_dict({"image": images, "label": [0.5]}, features=features))

    def test_a_row_without_an_image_is_named(self) -> None:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        source = open_source(datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=features))
        with pytest.raises(FormatError, match="row 0 has no image"):
            source.images([0], size=8, channels=1)


class TestHub:
    def load(self, monkeypatch: pytest.MonkeyPatch, splits: dict[str, Any], error: Exception | None = None) -> None:
        def load_dataset(name: str, *, split: str) -> Any:
            if error is not None:
                raise error
            if split not in splits:
                raise ValueError(f'Unknown split "{split}". Should be one of {list(splits)}.')
            return splits[split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    def test_the_validation_split_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        rows = {"image": [{"bytes": png(), "path": None}], "label": ["cat"]}
        dataset = datasets.Dataset.from_dict(rows, features=features)
        self.load(monkeypatch, {"train": None, "validation": dataset})
        assert open_source("some-org/some-set", split="test").class_names == ("cat",)
        self.load(monkeypatch, {"validation": dataset})
        with pytest.raises(SourceError, match=r"split 'train'.*Should be one of \['validation'\]"):
            open_source("some-org/some-set", split="train")

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset"),
            datasets.exceptions.NonMatchingChecksumError("data.zip"),
            pa.ArrowInvalid("Parquet magic bytes not found in footer"),
            ConnectionError("no network"),
            KeyError("features"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_errors_of_the_library(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.load(monkeypatch, {}, error)
        with pytest.raises(SourceError, match=rf"'some-org/some-set'.*\({type(error).__name__}: .*; check the id"):
            open_source("some-org/some-set")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield picture(), 0

    def __len__(self) -> int:
        return 1


class Broken(Items):
    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("worker died")


class TestTorchItems:
    @pytest.mark.parametrize(
        ("dataset", "names"),
        [
            (Items([{"image": picture(), "label": 3}]), ["3"]),
            (Items([{"image": picture(), "label": "cat", "id": 9}]), ["cat"]),
            (labelled(np.array([2]), torch.tensor([1]), torch.tensor(0), np.int8(4), True), ["2", "1", "0", "4", "1"]),
            (labelled("007", "7"), ["007", "7"]),
            (labelled(None, None, targets=[[1], [0]]), ["1", "0"]),
            (labelled(None, None, targets=np.array(["dog", "cat"], object)), ["dog", "cat"]),
            (labelled(0, 1, classes=[10, 20]), ["10", "20"]),
            (labelled(0, 1, classes=np.array(["cat", "dog"])), ["cat", "dog"]),
            (labelled(0, 1, classes={"dog": 1, "cat": 0}), ["cat", "dog"]),
            (labelled(0, 1, classes=[]), ["0", "1"]),
        ],
    )
    def test_forms_that_are_read(self, dataset: Items, names: list[str]) -> None:
        source = open_source(dataset)
        assert names_of(source) == names
        assert source.images(range(len(names)), size=8, channels=1)[:, 0, 0, 0].tolist() == [*range(len(names))]

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            (labelled(0.2, 0.7, 1.9), "expected an integer or text as label, item 0 has 0.2"),
            (labelled(0, torch.tensor(1.0)), r"item 1 has tensor\(1.\)"),
            (labelled(torch.eye(3)[1]), r"item 0 has float32 with shape \(3,\); .* argmax of a one-hot label"),
            (labelled(np.array([1, 0, 1])), r"item 0 has int64 with shape \(3,\)"),
            (labelled(None), "item 0 has None"),
            (labelled({"boxes": []}), "item 0 has {'boxes'"),
            (labelled(0, "cat"), "all numbers or all text"),
            (labelled(None, targets=[0.5]), "one integer or text as label per image, got float64"),
            (labelled(None, targets=torch.eye(3)), r"got float32 with shape \(3, 3\).*argmax\(1\)"),
            (labelled(None, targets=[[1, 0], [0, 1]]), r"got int64 with shape \(2, 2\)"),
            (labelled(None, None, targets=[1, None]), "got object"),
            (labelled(None, None, targets=["cat", 1]), "all numbers or all text"),
            (labelled(None, None, targets=[[1], [0, 2]]), "its labels cannot be read"),
            (labelled(0, classes=[0.5]), "its classes are no list of class names"),
            (labelled(0, classes=7), "its labels cannot be read"),
            (Items([picture()]), r"expected items \(image, label\), .* item 0 is a Image"),
            (Items([{"pixels": 0}]), "item 0 is a mapping with 'pixels'"),
            (Items([None]), "item 0 is a NoneType"),
            (Items([np.zeros((8, 8))]), "item 0 is a ndarray"),
            (Broken([0]), r"its labels cannot be read \(RuntimeError: worker died\)"),
            (Stream(), "Stream: expected a map-style torch Dataset"),
        ],
    )
    def test_forms_that_are_refused(self, dataset: Dataset[Any], message: str) -> None:
        with pytest.raises(SourceError, match=message):
            open_source(dataset)


class TestClassList:
    @pytest.mark.parametrize(
        "value",
        [
            {"cat": 0.2, "dog": 1.0},
            {"cat": True, "dog": False},
            {"cat": 0, "dog": 0},
            {"0": "cat", "dog": 1},
            {"0": "cat", "00": "dog"},
            {"cat": "0", "dog": "1"},
            {0: "cat", 2: "dog"},
            ["cat", 1],
            "cat",
            {},
            None,
        ],
    )
    def test_what_is_none(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"expected (labels|a label|a text name)"):
            class_list(value)

    def test_floats_beside_shards_are_not_cut(self, tmp_path: Path) -> None:
        path = tar(tmp_path / "x.tar", ["0", "1"])
        (tmp_path / "classes.json").write_text('{"cat": 0.2, "dog": 1.9}')
        with pytest.raises(FormatError, match=r"classes\.json: expected class names.* got 0\.2"):
            open_source(path)

    def test_a_list_saved_by_windows(self, tmp_path: Path) -> None:
        path = tar(tmp_path / "x.tar", ["0", "1"])
        (tmp_path / "classes.json").write_bytes(b'\xef\xbb\xbf["cat", "dog"]')
        assert names_of(open_source(path)) == ["cat", "dog"]
