"""``dap.load`` of what other methods release, and what the set then gives: tensors, take, show, Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dap
from dap.data.label_order import reorder_labels
from dap.errors import ClassMapError, FormatError, OptionError, SourceError

WNIDS = ["n02096294", "n02093754", "n02111889"]  # Minimax's order, which is not the sorted one


def colour(label: int, number: int) -> tuple[int, int, int]:
    return (60 * label + 10, 20 * number, 200)


def tree(folder: Path, classes: list[str], count: int = 2, size: tuple[int, int] = (12, 12)) -> Path:
    """A folder a class, whose images say by their colour which class and number they are."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, colour(label, number)).save(folder / name / f"{number:05d}.png")
    return folder


def red(images: torch.Tensor) -> list[int]:
    return ((images[:, 0, 0, 0].long() - 10) // 60).tolist()


class TestTree:
    def test_labels_are_places_of_sorted_folders(self, tmp_path: Path) -> None:
        found = dap.load(tree(tmp_path, WNIDS))
        assert found.class_names == tuple(sorted(WNIDS)) and found.labels.tolist() == [0, 0, 1, 1, 2, 2]
        images, labels = found.to_torch()
        assert images.shape == (6, 3, 12, 12) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert red(images) == [1, 1, 0, 0, 2, 2]
        assert found.manifest == {} and found.path == tmp_path and len(found) == 6
        assert found.files[0] == "n02093754/00000.png"
        assert repr(found) == f"DistilledDataset({str(tmp_path)!r}, 6 images, 3 classes)"
        image, label = found[2]
        assert image.shape == (3, 12, 12) and label == 1 and [label for _, label in found] == found.labels.tolist()
        assert found[-1][1] == 2
        with pytest.raises(IndexError):
            found[6]

    @pytest.mark.parametrize(
        "write",
        [
            lambda path: WNIDS,
            lambda path: {name: label for label, name in enumerate(WNIDS)},
            lambda path: text(path / "map.txt", "\n".join(WNIDS) + "\n\n"),
            lambda path: str(text(path / "map.json", json.dumps(WNIDS))),
            lambda path: text(path / "map.json", json.dumps({name: label for label, name in enumerate(WNIDS)})),
            lambda path: dict(enumerate(WNIDS)),
            lambda path: text(path / "map.json", json.dumps({label: WNIDS[label] for label in (2, 0, 1)})),
            lambda path: text(path / "map.txt", "\ufeff" + "\r\n".join(WNIDS)),
            lambda path: text(path / "map.json", "\ufeff" + json.dumps(WNIDS)),
        ],
        ids=[
            "list",
            "mapping",
            "lines",
            "json",
            "json by name",
            "by id",
            "json by id",
            "lines of Windows",
            "json with BOM",
        ],
    )
    def test_class_map(self, tmp_path: Path, write: object) -> None:
        found = dap.load(tree(tmp_path / "set", WNIDS), class_map=write(tmp_path))
        images, labels = found.to_torch()
        assert found.class_names == tuple(WNIDS) and labels.tolist() == red(images) == [1, 1, 0, 0, 2, 2]

    def test_folders_that_are_numbers_take_names_by_number(self, tmp_path: Path) -> None:
        found = dap.load(tree(tmp_path, ["00002", "00000"]), class_map=WNIDS)
        assert found.class_names == tuple(WNIDS)
        images, labels = found.to_torch()
        assert labels.tolist() == [0, 0, 2, 2] and red(images) == [1, 1, 0, 0]

    def test_numbers_that_are_names_are_not_taken_for_labels(self, tmp_path: Path) -> None:
        found = dap.load(tree(tmp_path, ["0", "1"]), class_map=["1", "0"])
        assert found.labels.tolist() == [1, 1, 0, 0] and found.class_names == ("1", "0")

    def test_classes_of_the_map_without_images_keep_their_labels(self, tmp_path: Path) -> None:
        found = dap.load(tree(tmp_path, WNIDS[1:]), class_map=WNIDS)
        assert found.class_names == tuple(WNIDS) and set(found.labels.tolist()) == {1, 2}
        assert len(found.take(1)) == 2 and found.show().height == 2 * 74

    @pytest.mark.parametrize(
        ("class_map", "message"),
        [
            (WNIDS[:2], "but not 'n02111889'; add them"),
            ([*WNIDS, WNIDS[0]], "expected different names"),
            ({WNIDS[0]: 0, WNIDS[1]: 2, WNIDS[2]: 3}, "expected labels 0 to 2, each once"),
            ({name: 0 for name in WNIDS}, "expected labels 0 to 2, each once"),
            ({name: True for name in WNIDS[:1]}, "expected a label 0, 1, 2, … for each name, got True"),
            ([1, 2, 3], "expected a text name for each label from 0 on, got 1, 2, 3; give names"),
            ([], "expected a text name for each label"),
        ],
    )
    def test_class_maps_that_do_not_fit(self, tmp_path: Path, class_map: object, message: str) -> None:
        with pytest.raises(ClassMapError, match=message):
            dap.load(tree(tmp_path, WNIDS), class_map=class_map)

    def test_folders_of_one_number(self, tmp_path: Path) -> None:
        with pytest.raises(ClassMapError, match="are the same number"):
            dap.load(tree(tmp_path, ["1", "01"]), class_map=["a", "b"])

    @pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
    def test_a_damaged_class_map_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "map.json").write_bytes(content)
        with pytest.raises(FormatError, match=r"map\.json: expected a class map"):
            reorder_labels(dap.load(tree(tmp_path / "set", WNIDS)).source, tmp_path / "map.json")

    def test_a_class_map_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ClassMapError, match=r"none\.txt: expected a file"):
            dap.load(tree(tmp_path / "set", WNIDS), class_map=tmp_path / "none.txt")

    def test_every_mode_becomes_grey_or_rgb(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        palette = Image.new("RGB", (4, 4), (200, 100, 50)).convert("P")
        palette.save(tmp_path / "a" / "0.png")
        Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "b" / "0.png")
        images, _ = dap.load(tmp_path).to_torch()
        assert images[0, :, 0, 0].tolist() == list(palette.convert("RGB").getpixel((0, 0)))
        assert images[1].unique().tolist() == [0]
        Image.new("L", (4, 4), 7).save(tmp_path / "b" / "0.png")
        assert dap.load(tmp_path)[1][0].shape == (1, 4, 4)

    def test_sizes_that_differ_ask_for_one(self, tmp_path: Path) -> None:
        tree(tmp_path, ["a"])
        tree(tmp_path, ["b"], size=(20, 30))
        found = dap.load(tmp_path)
        with pytest.raises(OptionError, match=r"a/00000.png is \(3, 12, 12\) and b/00000.png is \(3, 30, 20\): give"):
            found.to_torch()
        assert found.to_torch(size=16)[0].shape == (4, 3, 16, 16)
        assert next(iter(found.loader(4, size=8, device="cpu")))[0].shape == (4, 3, 8, 8)

    def test_more_than_the_memory_is_refused_before_it_is_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = dap.load(tree(tmp_path, ["a"]))
        monkeypatch.setattr("os.sysconf", lambda name: 20)
        with pytest.raises(OptionError, match=r"2 images of \(3, 12, 12\) take 0 GB, this machine has"):
            found.to_torch()

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        tree(tmp_path, ["a"])
        (tmp_path / "a" / "00001.png").write_bytes(b"no image")
        with pytest.raises(FormatError, match=r"a/00001\.png: cannot be read as an image"):
            dap.load(tmp_path).to_torch()

    def test_take(self, tmp_path: Path) -> None:
        tree(tmp_path, ["a", "b"], count=3)
        (tmp_path / "b" / "00002.png").unlink()
        found = dap.load(tmp_path)
        assert found.take(2).files == ["a/00000.png", "a/00001.png", "b/00000.png", "b/00001.png"]
        assert found.take(2).take(1).labels.tolist() == [0, 1]
        with pytest.raises(OptionError, match="take: expected a whole number from 1 to 2"):
            found.take(3)

    @pytest.mark.parametrize("kind", ["missing", "empty"])
    def test_nothing_there(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match=r"there is no dap\.json"):
            dap.load(tmp_path / kind)


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_tensors_in_memory() -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = dap.load(torch.utils.data.TensorDataset(images, torch.tensor([2, 2, 0, 0, 1, 1])))
    assert found.class_names == ("0", "1", "2")
    torch.testing.assert_close(found.to_torch()[0] / 255, images, rtol=0, atol=0.5 / 255 + 1e-6)
    with pytest.raises(FormatError, match="leave Normalize out"):
        dap.load(torch.utils.data.TensorDataset(images - 0.5, torch.zeros(6, dtype=torch.int64))).to_torch()


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> dap.DistilledDataset:
    """A run whose class order is not that of its folders."""
    return dap.distill(
        "fashion-mini", method="random", ipc=3, classes=["T-shirt/top", "Bag"],
        out=tmp_path_factory.mktemp("runs") / "out", progress=False,
    )  # fmt: skip


def test_to_hf_has_the_bytes_of_the_files(distilled: dap.DistilledDataset) -> None:
    import datasets

    found = distilled.to_hf()
    assert found.features == datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["T-shirt/top", "Bag"])}
    )
    assert found["label"] == distilled.labels.tolist()
    for row, file, (image, _) in zip(found, distilled.files, distilled, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), image[0])
        stored = found.cast_column("image", datasets.Image(decode=False))
        assert stored[distilled.files.index(file)]["image"]["bytes"] == (distilled.path / file).read_bytes()
    again = dap.load(found)
    assert again.class_names == distilled.class_names and again.labels.tolist() == distilled.labels.tolist()
    assert torch.equal(again.to_torch()[0], distilled.to_torch()[0])


def test_to_hf_of_tensors_is_png() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = dap.load(torch.utils.data.TensorDataset(images, torch.tensor([0, 1]))).to_hf()
    assert found[1]["image"].format == "PNG"
    np.testing.assert_array_equal(np.asarray(found[1]["image"]).transpose(2, 0, 1), images[1])


def test_a_run_keeps_its_own_classes(distilled: dap.DistilledDataset) -> None:
    with pytest.raises(OptionError, match="its labels are those of its"):
        dap.load(distilled.path, class_map=["Bag", "T-shirt/top"])


def test_a_loader_of_a_run(distilled: dap.DistilledDataset) -> None:
    images, labels = distilled.to_torch()
    for batch, found in distilled.take(2).loader(3, device="cpu"):
        for image, label in zip(batch, found, strict=True):
            assert any(
                torch.equal((image * 255).round().byte(), own) and label == target
                for own, target in zip(images, labels, strict=True)
            )


def test_evaluate_takes_a_loaded_set(distilled: dap.DistilledDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dap.evaluating.evaluate_source", lambda train, test, **options: train)
    foreign = dap.load(distilled.path / "train", class_map=["T-shirt/top", "Dress", "Bag"])
    train = dap.evaluate(foreign, "fashion-mini")  # a class without images is no class of the evaluation
    assert train.class_names == ("T-shirt/top", "Bag") and sorted(train.labels) == [0, 0, 0, 1, 1, 1]
    assert {train.class_names[label] for label in train.labels[:3]} == {"Bag"}
    by_folder, by_set = dap.evaluate(distilled.path, "fashion-mini"), dap.evaluate(distilled, "fashion-mini")
    assert by_set.class_names == by_folder.class_names and by_set.ids == by_folder.ids
    assert by_set.labels.tolist() == by_folder.labels.tolist() and by_set.class_names != distilled.class_names
    with monkeypatch.context() as patch:
        patch.setattr("dap.data.open.open_folder", lambda *_, **__: pytest.fail("the run's folder is opened again"))
        dap.evaluate(distilled, "fashion-mini")
    part = dap.evaluate(distilled.take(1), "fashion-mini")
    assert sorted(part.ids) == sorted(distilled.take(1).files)


def test_to_webdataset_is_a_pipeline(distilled: dap.DistilledDataset) -> None:
    pipeline = distilled.to_webdataset().decode("rgb8").to_tuple("__key__", "png", "cls")
    images, labels = distilled.to_torch()
    for _ in range(2):  # it can be gone through again
        samples = list(pipeline)
        assert [label for _, _, label in samples] == labels.tolist()
        assert len({key for key, _, _ in samples}) == len(distilled)
        for (_, pixels, _), image in zip(samples, images, strict=True):
            assert np.array_equal(pixels[..., : len(image)].transpose(2, 0, 1), image.numpy())
    tensors = torch.utils.data.TensorDataset(torch.zeros((2, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1]))
    assert sorted(next(iter(dap.load(tensors).to_webdataset()))) == ["__key__", "cls", "png"]
