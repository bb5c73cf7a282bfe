"""The one door: built-in data, idx folders, torch and Hugging Face datasets, and what is said when nothing fits."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dap.data import builtin
from dap.data.builtin import ASSETS, DEBIAN_FOLDER, FASHION_CLASSES
from dap.data.idx import idx_files, read_idx
from dap.data.open import open_source
from dap.errors import FormatError, OptionError, SourceError

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))


class Items(torch.utils.data.Dataset[Any]):
    """Items in a list, with whatever attributes a test gives it."""

    def __init__(self, items: list[tuple[Any, Any]], **attributes: Any) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.items[index]


def grey(value: int) -> Image.Image:
    return Image.new("L", (32, 32), value)


# ---- built-in data and idx folders


@pytest.mark.parametrize("split", ["train", "test"])
def test_fashion_mini(split: str) -> None:
    source = open_source("fashion-mini", split=split)
    assert source.name == "fashion-mini" and source.class_names == FASHION_CLASSES
    assert source.source_ids == tuple(range(10)) and source.ids[17] == f"{split}/17"
    assert np.bincount(source.labels).tolist() == [1000] * 10
    images = source.images(range(100), size=32, channels=1)
    assert not images[:, :, :2].any() and not images[:, :, :, -2:].any()
    np.testing.assert_array_equal(images[:, 0, 2:30, 2:30], read_idx(ASSETS / f"{split}-images.idx.xz")[:100])
    assert open_source("fashion-mini", split=split) is source
    assert len(source.identity()) == 64
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 9_000_000


@pytest.mark.skipif(not idx_files(DEBIAN_FOLDER), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mini_is_the_head_of_fashion_mnist() -> None:
    full, mini = open_source("fashion-mnist"), open_source("fashion-mini")
    assert len(full) == 60_000 and full.class_names == mini.class_names
    kept = np.sort(np.concatenate([full.of_class(label)[:1000] for label in range(10)]))
    np.testing.assert_array_equal(full.labels[kept], mini.labels)
    np.testing.assert_array_equal(
        full.images(kept[::97], size=32, channels=1),
        mini.images(range(0, 10_000, 97), size=32, channels=1),
    )
    by_folder = open_source(DEBIAN_FOLDER, split="test")
    assert by_folder.class_names == FASHION_CLASSES  # known by its labels
    assert by_folder.identity() == open_source("fashion-mini", split="test").identity()


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_an_idx_folder_gets_its_labels_as_names(tmp_path: Path, suffix: str) -> None:
    images = RNG.integers(0, 256, (5, 28, 28), np.uint8)
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.array([7, 3, 7, 9, 3], np.uint8))
    source = open_source(tmp_path)
    assert source.class_names == ("3", "7", "9") and source.source_ids == (3, 7, 9)
    assert source.labels.tolist() == [1, 0, 1, 2, 0]
    padded = source.images(range(5), size=32, channels=3)
    np.testing.assert_array_equal(padded[:, 2, 2:30, 2:30], images)
    assert padded.sum(dtype=np.int64) == 3 * images.sum(dtype=np.int64)
    with pytest.raises(SourceError, match=r"t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte.*found 'train-images"):
        open_source(tmp_path, split="test")
    with pytest.raises(OptionError, match="unknown split 'validation'"):
        open_source(tmp_path, split="validation")
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.zeros(4, np.uint8))
    with pytest.raises(FormatError, match=r"images-idx3-ubyte.*: expected 4 images, as many as labels, got 5"):
        open_source(tmp_path)


def test_a_missing_fashion_mnist_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "DEBIAN_FOLDER", tmp_path)
    with pytest.raises(SourceError, match="apt install dataset-fashion-mnist"):
        open_source("fashion-mnist")


# ---- torch


def test_torch_dataset_with_classes_and_targets() -> None:
    items = [(torch.full((1, 32, 32), value, dtype=torch.uint8), -1) for value in (5, 6, 7)]
    source = open_source(Items(items, classes=["cat", ("dog", "hound"), "never"], targets=torch.tensor([1, 0, 1])))
    assert source.name == "Items"
    assert source.class_names == ("cat", "dog, hound") and source.source_ids == (0, 1)
    assert source.labels.tolist() == [1, 0, 1] and list(source.ids) == ["0", "1", "2"]
    assert source.images([2, 0], size=32, channels=1)[:, 0, 0, 0].tolist() == [7, 5]


def test_torch_dataset_of_floats_without_names() -> None:
    values = torch.tensor([0.0, 0.5, 1.0])
    items = [
        (torch.ones(3, 32, 32) * value, torch.tensor(label)) for value, label in zip(values, (4, 2, 4), strict=True)
    ]
    source = open_source(Items(items))
    assert source.class_names == ("2", "4") and source.labels.tolist() == [1, 0, 1]
    assert source.images(range(3), size=32, channels=3)[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_wnids_come_before_classes() -> None:
    source = open_source(Items([(grey(1), 1)], wnids=["n01440764", "n01443537"], classes=[("tench",), ("goldfish",)]))
    assert source.class_names == ("n01443537",) and source.source_ids == (1,)


def test_torch_subset_keeps_names_and_labels() -> None:
    base = Items([(grey(value), value % 3) for value in range(9)], classes=["a", "b", "c"])
    source = open_source(torch.utils.data.Subset(base, [5, 0, 8]))
    assert source.class_names == ("a", "c") and source.labels.tolist() == [1, 0, 1]
    assert source.images(range(3), size=32, channels=1)[:, 0, 0, 0].tolist() == [5, 0, 8]


@pytest.mark.parametrize(
    ("items", "attributes", "message"),
    [
        ([], {}, "no images"),
        ([(grey(0), 2)], {"classes": ["a", "b"]}, r"labels 2 belong to none of the 2 class names"),
        ([(grey(0), -1)], {"classes": ["a", "b"]}, r"labels -1 belong to none"),
        ([(grey(0), 0)], {"targets": [0, 1]}, "2 targets for 1 images"),
        ([(grey(0), 0)], {"targets": [0.5]}, "one integer or text as label per image"),
        ([(grey(0), 0), (grey(0), 1)], {"classes": ["crane", "crane"]}, "more than one class is called 'crane'"),
    ],
)
def test_torch_datasets_that_do_not_fit(items: list[Any], attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(Items(items, **attributes))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 32, 32), -0.1), "leave Normalize out"),
        (torch.full((3, 32, 32), float("nan")), "leave Normalize out"),
        (torch.zeros(32, 32, 3), "expected a tensor"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "expected a tensor"),
        ("a string", "expected a tensor"),
    ],
)
def test_torch_images_of_the_wrong_kind(image: Any, message: str) -> None:
    source = open_source(Items([(image, 0)]))
    for read in (lambda: source.images([0], size=32, channels=3), source.identity):
        with pytest.raises(FormatError, match=rf"Items/0: .*{message}"):
            read()


def test_torch_identity_is_that_of_names_labels_and_pixels() -> None:
    def identity(value: int, label: int, name: str) -> str:
        return open_source(Items([(grey(value), label), (grey(3), 1 - label)], classes=["a", name])).identity()

    assert identity(1, 1, "b") == identity(1, 1, "b")
    assert len({identity(1, 1, "b"), identity(2, 1, "b"), identity(1, 0, "b"), identity(1, 1, "c")}) == 4


def test_torchvision_image_folder_equals_the_folder(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    for name, count in (("a", 2), ("b", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    folder, dataset = open_source(tmp_path), open_source(torchvision.datasets.ImageFolder(tmp_path))
    assert dataset.class_names == folder.class_names and dataset.labels.tolist() == folder.labels.tolist()
    np.testing.assert_array_equal(
        dataset.images(range(3), size=32, channels=3), folder.images(range(3), size=32, channels=3)
    )


# ---- Hugging Face


def hf_dataset(**columns: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    features = {name: feature for name, (feature, _) in columns.items()}
    return datasets.Dataset.from_dict(
        {name: values for name, (_, values) in columns.items()}, features=datasets.Features(features)
    )


def test_hf_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    dataset = hf_dataset(
        img=(datasets.Image(), [grey(value) for value in range(6)]),
        label=(datasets.ClassLabel(names=["T-shirt/top", "bag", "never"]), [1, 0, 1, 0, 0, 1]),
        caption=(datasets.Value("string"), list("abcdef")),
    )
    source = open_source(dataset)
    assert source.class_names == ("T-shirt/top", "bag") and source.source_ids == (0, 1)
    assert source.labels.tolist() == [1, 0, 1, 0, 0, 1]
    assert source.images([4, 1], size=32, channels=1)[:, 0, 0, 0].tolist() == [4, 1]
    picked = open_source(dataset.select([3, 5]).with_format("torch"))
    assert picked.labels.tolist() == [0, 1]
    assert picked.images([0, 1], size=32, channels=1)[:, 0, 0, 0].tolist() == [3, 5]
    assert source.identity() == open_source(dataset).identity() != picked.identity()
    subset = open_source(dataset, classes=["bag"])
    assert subset.images(range(3), size=32, channels=1)[:, 0, 0, 0].tolist() == [0, 2, 5]


def test_hf_columns_missing_or_ambiguous() -> None:
    datasets = pytest.importorskip("datasets")
    image, label = (datasets.Image(), [grey(0)]), (datasets.ClassLabel(names=["a"]), [0])
    two = hf_dataset(img=image, coarse_label=label, fine_label=label)
    with pytest.raises(SourceError, match=r"one column, of integers.*'coarse_label', 'fine_label'.*label_column="):
        open_source(two)
    assert open_source(two.select_columns(["img", "fine_label"])).class_names == ("a",)
    with pytest.raises(SourceError, match=r"one column, of encoded images; found none in the columns 'label'"):
        open_source(hf_dataset(label=label))
    with pytest.raises(SourceError, match="labels -1 belong to none"):
        open_source(hf_dataset(image=image, label=(label[0], [-1])))


def test_a_hub_id_is_loaded_by_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = hf_dataset(image=(datasets.Image(), [grey(9)]), label=(datasets.ClassLabel(names=["a"]), [0]))
    asked: list[tuple[str, str]] = []

    def load(name: str, *, split: str) -> Any:
        asked.append((name, split))
        if split == "nowhere":
            raise ValueError('Unknown split "nowhere". Should be one of ["test"].')
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    assert open_source("someone/things", split="test").name == "someone/things"
    assert asked == [("someone/things", "test")]
    with pytest.raises(SourceError, match="Unknown split"):
        open_source("someone/things", split="nowhere")
    (tmp_path / "data").mkdir()
    with pytest.raises(SourceError, match="'data/missing': no such folder"):
        open_source("data/missing")  # "data" is a folder here: a slip in a path, and the hub is not asked
    assert len(asked) == 2
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match=r"pip install 'dap-distill\[hf\]'"):
        open_source("someone/things")


# ---- what fits nothing, and what opening costs


def test_what_fits_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'fashon-mini'.*did you mean 'fashion-mini'.*expected a folder"):
        open_source("fashon-mini")
    with pytest.raises(SourceError, match=r"nowhere': no such folder; expected"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x\.zip': is a file"):
        open_source(tmp_path / "x.zip")
    for thing, kind in ((3, "int"), ([1, 2], "list"), ({"train": 1}, "dict")):
        with pytest.raises(SourceError, match=rf"from a builtins\.{kind}; expected"):
            open_source(thing)  # type: ignore[arg-type]


def test_a_source_passes_through_and_survives_pickling() -> None:
    source = open_source("fashion-mini", classes=["Bag", "Dress"])
    assert open_source(source) is source
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.images([5], size=32, channels=1), source.images([5], size=32, channels=1))
    assert copy.identity() == source.identity()


def test_opening_a_built_in_source_imports_neither_torch_nor_datasets() -> None:
    code = (
        "import sys; from dap.data.open import open_source; open_source('fashion-mini');"
        "print([name for name in ('torch', 'timm', 'datasets', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fashion_labels_are_known_by_their_hash() -> None:
    labels = read_idx(ASSETS / "test-labels.idx.xz")
    assert hashlib.sha256(labels.tobytes()).hexdigest() in builtin.FASHION_LABELS
