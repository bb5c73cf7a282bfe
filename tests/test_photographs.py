"""Photographs that no prior knows: real images are chosen, kept in size and colour, and errors name the ways out."""

from __future__ import annotations

import logging
import shlex

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import dap
from dap.data.appearance import Appearance
from dap.data.open import open_source
from dap.data.pixels import to_upright
from dap.errors import ClassMapError, OptionError, RunMismatchError
from dap.features import Encoder
from dap.priors import load_prior
from dap.rng import derive_seed
from dap.selection import k_medoids

BY_FEATURES = ["herding", "k_center", "k_medoids"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of five files of many kinds: alpha, CMYK, EXIF orientation, grey, and all of other sizes."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(("my cat", "oak")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for place, mode in enumerate(("RGBA", "CMYK", "RGB", "L", "RGB")):
            width, height = 40 - number, 30 + 4 * place
            image = Image.frombytes(mode, (width, height), draw.bytes(width * height * len(mode)))
            exif = Image.Exif()
            exif[0x0112] = 6 if place == 2 else 1
            suffix = "png" if mode in ("RGBA", "L") else "jpg"
            image.save(tmp_path / "photos" / name / f"{place}.{suffix}", exif=exif)
    return tmp_path / "photos"


def distill(folder, out, **options):
    return dap.distill(folder, out=out, **{"method": "k_medoids", "ipc": 3, "progress": False} | options)


@pytest.mark.parametrize("method", ["random", *BY_FEATURES])
def test_chosen_images_keep_their_size_and_colour(method, folder, tmp_path, caplog):
    made = distill(folder, tmp_path / "out", method=method, seed=2)
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if method == "random":
        assert told == [] and "features" not in made.manifest["options"]
    else:
        assert (
            len(told) == 1 and "by their pixels at 32 × 32, because the prior fashion-dit does not know all" in told[0]
        )
        assert made.manifest["options"]["features"] == {"name": "pixels", "size": 32}
    assert (made.manifest["options"]["size"], made.manifest["options"]["channels"]) == (None, 3)
    assert made.manifest["prior"] is None and made.class_names == ("my cat", "oak")
    names = [name for record in made.manifest["record"]["images"].values() for name in record]
    assert len(set(names)) == len(made) == 6
    for (pixels, _), name in zip(made, names, strict=True):
        with Image.open(folder / name) as image:
            whole = to_upright(image, channels=3).transpose(2, 0, 1)
        assert pixels.shape == whole.shape
        assert np.abs(pixels.astype(int) - whole).max() <= 2  # JPEG
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert max(sheet.size) < 1000
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    for path in sorted(before)[1:3]:
        path.unlink()
    distill(folder, tmp_path / "out", method=method, seed=2)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")} == before


def test_the_images_are_those_that_the_pixels_choose(folder, tmp_path):
    source, made = open_source(folder), distill(folder, tmp_path / "out", features="pixels", seed=3)
    for label, name in enumerate(source.class_names):
        indices = source.of_class(label)
        rows = Encoder("pixels").rows(source, indices)
        chosen = k_medoids(rows, 3, seed=derive_seed(3, "k_medoids", name)).indices
        assert made.manifest["record"]["images"][name] == [source.ids[indices[row]] for row in chosen]


def test_size_channels_and_features_are_chosen(folder, tmp_path):
    prior = load_prior(tiny.stable_diffusion())
    runs = {
        name: distill(folder, tmp_path / name, **options)
        for name, options in {
            "small": {"size": 16}, "grey": {"channels": "grey", "size": 16}, "own": {"channels": "grey"},
            "vae": {"features": "vae", "prior": prior}, "prior": {"prior": prior},
            "timm": {"features": "test_vit", "features_options": {"pretrained": False, "size": 32}, "device": "cpu"},
            "object": {"features": Encoder("pixels", size=5)},
        }.items()
    }  # fmt: skip
    assert runs["small"].to_torch()[0].shape == (6, 3, 16, 16)
    assert runs["grey"].to_torch()[0].shape == (6, 1, 16, 16)
    assert {len(image) for image, _ in runs["own"]} == {1}
    found = {name: made.manifest["options"].get("features", {}).get("name") for name, made in runs.items()}
    pixels = dict.fromkeys(("small", "grey", "own", "object"), "pixels")
    assert found == pixels | {"vae": "vae", "prior": None, "timm": "timm"}
    assert runs["prior"].manifest["prior"]["sha256"] == prior.describe()["sha256"]
    assert runs["vae"].manifest["prior"] is None and len({image.shape for image, _ in runs["prior"]}) > 1
    with pytest.raises(RunMismatchError, match="options\\.features"):
        distill(folder, tmp_path / "object", features=Encoder("pixels", size=6))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "random", "features": "pixels"}, "method 'random' chooses no real images by features"),
        ({"method": "dit", "size": 32}, "size: the images of method 'dit' have the prior's size"),
        ({"features": "pixels", "method_options": {"block": 2}}, "block and timestep are options of the prior's"),
        ({"features": "prior", "features_options": {"size": 3}}, "give method_options instead"),
        ({"features_options": {"size": 3}}, "features_options: expected features by name"),
        ({"features": "vae", "features_options": {"prior": 3}}, "features_options: prior is an option of the run"),
        ({"channels": "gray"}, "unknown channels 'gray'; did you mean 'grey'"),
        ({"size": 0}, "size: expected a whole number"),
        ({"ipc": 6}, r"'my cat' has 5 images, fewer than ipc=6: choose an ipc of at most 5.*\(classes=\)"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(options, said, folder, tmp_path):
    with pytest.raises(OptionError, match=said):
        distill(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_unknown_classes_name_the_ways_out_in_python(folder, tmp_path):
    with pytest.raises(ClassMapError) as caught:
        distill(folder, tmp_path / "out", method="dap")
    for words in (
        "does not know 2 of 2 classes", "(classes=)", "(label_map=;", f"dap.train_prior({str(folder)!r}, out='prior')",
        f"dap.distill({str(folder)!r}, method='k_medoids', out='own')", "dap.adapt_prior(",
    ):  # fmt: skip
        assert words in str(caught.value)


def test_images_in_memory_are_no_folder_to_name(tmp_path):
    images = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ClassMapError) as caught:
        distill(images, tmp_path / "out", method="dap")
    for words in ("dap.train_prior(source, out='prior')", "dap.adapt_prior(source, ", "dap.distill(source, method="):
        assert words in str(caught.value)


def test_the_command_line_names_them_in_its_own_words_and_they_can_be_pasted(
    folder, command_line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = folder.rename(tmp_path / "my photos").name
    code, _, err = command_line("distill", source, "--out", "out", "--ipc", 3)
    assert code == 2 and len(err.splitlines()) == 1 and not (tmp_path / "out").exists()
    for words in ("(--classes)", "(--label;", "dap prior train 'my photos' --out prior", "dap prior adapt 'my photos'"):
        assert words in err
    pasted = "dap distill 'my photos' --method k_medoids --out own"
    assert pasted in err and "dap." not in err.replace("dap.json", "")
    code, out, err = command_line(*shlex.split(pasted)[1:], "--ipc", 2, "--size", 8, "--features", "pixels")
    assert (code, err) == (0, "") and "4 images in own/train" in out


@pytest.mark.parametrize("build", [False, True])
def test_images_of_other_channels_are_refused_or_converted(build, folder, tiny_folder, tmp_path):
    labels = {"label_map": {"my cat": "Bag", "oak": "Coat"}, "num_inference_steps": 2, "progress": False}

    def run(out, **options):
        if build:
            return dap.build_index(folder, out=out, prior=str(tiny_folder), timesteps=1, **labels, **options)
        return distill(folder, out, method="dit", ipc=1, prior=str(tiny_folder), **labels, **options)

    with pytest.raises(
        OptionError, match=r"in colour, and the prior .*tiny-dit makes grey images.*\(channels='grey'\)"
    ):
        run(tmp_path / "out")
    with pytest.raises(OptionError, match="makes grey images, got 'rgb'"):
        run(tmp_path / "out", channels="rgb")
    assert not (tmp_path / "out").exists()
    assert len(run(tmp_path / "out", channels="grey")) > 0


def test_grey_images_under_a_prior_for_colour(tmp_path):
    for number in range(2):
        path = tmp_path / "grey" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), number).save(path)
    prior = load_prior(tiny.stable_diffusion())
    with pytest.raises(OptionError, match=r"its images are grey, .* makes RGB images.*\(channels='rgb'\)"):
        distill(tmp_path / "grey", tmp_path / "out", method="dit", prior=prior)
    options = {"method": "dit", "prior": prior, "ipc": 1, "num_inference_steps": 2}
    assert len(distill(tmp_path / "grey", tmp_path / "out", channels="rgb", **options)) == 1


def test_grey_images_that_are_stored_as_rgb_suit_a_grey_prior(tmp_path, tiny_folder):
    (tmp_path / "source" / "Bag").mkdir(parents=True)
    Image.new("L", (32, 32), 90).convert("RGB").save(tmp_path / "source" / "Bag" / "0.png")
    options = {"method": "dit", "ipc": 1, "num_inference_steps": 2, "prior": str(tiny_folder)}
    assert len(distill(tmp_path / "source", tmp_path / "out", **options)) == 1


@pytest.mark.parametrize(("side", "lines"), [(127, 0), (128, 1)])
def test_a_source_far_larger_than_the_priors_images_is_said(side, lines, tmp_path, tiny_folder, caplog):
    (tmp_path / "source" / "Bag").mkdir(parents=True)
    Image.new("L", (side, 140), 90).save(tmp_path / "source" / "Bag" / "0.png")
    with caplog.at_level(logging.WARNING):
        distill(
            tmp_path / "source", tmp_path / "out", method="dit", ipc=1, num_inference_steps=2, prior=str(tiny_folder)
        )
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [f"images, of {side} pixels, are reduced to the 32 of the prior" in line for line in told] == [True] * lines


def test_appearance_looks_at_more_than_the_first_image(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    for number in range(40):
        image = Image.new("RGB", (8, 8), (number, 0, 0)) if number == 39 else Image.new("L", (8, 8), number)
        image.save(tmp_path / "set" / "a" / f"{number:02}.png")
    source = open_source(tmp_path / "set")
    assert source.appearance == Appearance(size=8, channels=3, coloured=True, uniform=True)
    (tmp_path / "set" / "a" / "00.png").write_bytes(b"no image")
    assert open_source(tmp_path / "set").appearance.channels == 3
    assert not source.select(range(39)).appearance.coloured
    Image.new("L", (8, 9)).save(tmp_path / "set" / "a" / "39.png")
    assert not open_source(tmp_path / "set").appearance.uniform
