"""The training of evaluations beside the references' loop (torchvision on PIL images in a DataLoader with two workers).

    python benches/evaluation_speed.py --keep rows                          # minutes; the same command continues
    python benches/evaluation_speed.py --keep rows --photos DIR             # crops of DIR instead of scikit-learn's
    python benches/evaluation_speed.py --keep rows --only small accuracy    # some of the parts

- small: seconds of an epoch of ConvNet-3 on 100 images of 28 (grey) and 32 pixels (colour), workers restarted in each
  epoch, as the references do, and persistent.
- accuracy: both trainings on 100 images of fashion-mini, 12 seeds with the same initial weights, 2,000 test images.
- loading: seconds of an epoch of reading and augmenting 100 crops of 224 pixels.
- epoch: seconds of a whole epoch of ConvNet-6 on them.
- loss: the losses of three steps at 224 pixels for the same random numbers.

All contenders take turns, forwards and backwards, with THREADS threads each besides the workers; one measurement is one
file in the folder, kept as soon as it is there. The table gives medians. Give each number of threads a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from photographs import photographs
from reference_training import Images, injected, loader, mixed_loss, optimiser, train, transformed

import dap
from dap import rng
from dap.evaluation import Recipe, named_protocol, paired_difference, run_protocol, training
from dap.evaluation.augment import apply, cutmix, draw
from dap.evaluation.recipe import Case
from dap.freed_memory import keep_freed_memory
from dap.nets import create_net

IMAGES, CLASSES = 100, 10
PARTS = ("small", "accuracy", "loading", "epoch", "loss")
CONTENDERS = ("dap", "restarted", "persistent")
LabelledImages = tuple[np.ndarray, np.ndarray]


def options_of(size: int, epochs: int, width: int | None) -> dict[str, object]:
    return {"size": size, "epochs": epochs, "width": width, "cadence": "last"}


def recipe_of(network: str, size: int, epochs: int, width: int | None) -> Recipe:
    protocol = named_protocol("hard", options_of(size, epochs, width))
    return Recipe(**protocol.constants(Case(network, IMAGES // CLASSES, CLASSES, size)))


def new_net(network: str, recipe: Recipe, channels: int, seed: int) -> torch.nn.Module:
    """The network that ``run_protocol`` makes for this seed."""
    return create_net(
        network, channels=channels, classes=CLASSES, size=recipe.size, width=recipe.width, norm=recipe.norm,
        first_padding=recipe.grey_padding if channels == 1 else 1,
        generator=rng.generator(seed, "evaluate", network, 0),
    ).to(memory_format=torch.contiguous_format)  # fmt: skip


def fashion(size: int, count: int) -> tuple[LabelledImages, LabelledImages]:
    """Images to train on and ``count`` to test on."""
    source = dap.open_source("fashion-mini")
    rows = np.concatenate([source.of_class(label)[: IMAGES // CLASSES] for label in range(CLASSES)])
    rest = np.setdiff1d(np.arange(len(source)), rows)
    rest = np.random.default_rng(0).permutation(rest)[:count]
    return tuple((source.images(part, size=size, channels=1), source.labels[part]) for part in (rows, rest))  # type: ignore[return-value]


def crops(size: int, photos: Path | None) -> LabelledImages:
    pixels = np.stack(photographs(IMAGES, size, photos)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.arange(IMAGES) % CLASSES


def trained(contender: str, network: str, data: LabelledImages, recipe: Recipe) -> float:
    """Seconds of an epoch, with the making of the network and one test on two images."""
    images, labels = data
    start = time.perf_counter()
    if contender == "dap":
        run_protocol(images, labels, images[:2], labels[:2], classes=CLASSES, protocol="hard", network=network,
                     protocol_options=options_of(recipe.size, recipe.epochs, recipe.width), device="cpu")  # fmt: skip
    else:
        batches = loader(Images(images, labels, recipe), persistent=contender == "persistent")
        train(new_net(network, recipe, images.shape[1], 0).train(), batches, recipe, rng.generator(0))
    return (time.perf_counter() - start) / recipe.epochs


def loaded(contender: str, data: LabelledImages, recipe: Recipe) -> float:
    """Seconds of an epoch of reading, augmenting and mixing."""
    images, labels = data
    generator, pixels = rng.generator(0), torch.tensor(images)
    buffer = torch.empty(recipe.batch_size, images.shape[1], recipe.size, recipe.size)
    batches = loader(Images(images, labels, recipe), persistent=contender == "persistent")
    start = time.perf_counter()
    for _ in range(recipe.epochs):
        if contender == "dap":
            for rows in torch.randperm(len(pixels), generator=generator).split(recipe.batch_size):
                draws = draw(recipe, len(rows), pixels.shape[2], generator)
                cutmix(apply(pixels, draws, recipe, rows=rows, out=buffer), generator)
        else:
            for inputs, _ in batches:
                cutmix(inputs, generator)
    return (time.perf_counter() - start) / recipe.epochs


def accuracies(seed: int, epochs: int) -> dict[str, float]:
    """Test accuracies in per cent of both trainings from the same initial weights."""
    recipe = recipe_of("convnet3", 28, epochs, 32)
    (images, labels), test = fashion(28, 2000)
    outcome = run_protocol(images, labels, *test, classes=CLASSES, protocol="hard", network="convnet3", seed=seed,
                           protocol_options=options_of(28, epochs, 32), device="cpu")  # fmt: skip
    torch.manual_seed(seed)
    net = new_net("convnet3", recipe, 1, seed).train()
    train(net, loader(Images(images, labels, recipe), workers=0), recipe, rng.generator("reference", seed))
    reference = 100 * training.accuracy_on(net, test, recipe, torch.device("cpu"))
    return {"dap": outcome.last, "reference": reference}


def losses(data: LabelledImages) -> dict[str, list[float]]:
    """The losses of three steps of 8 images at 224 pixels for the same random numbers."""
    images, labels = data[0][:24], data[1][:24]
    recipe, found = recipe_of("convnet6", 224, 1, None), list[float]()
    original = training._loss

    def spy(*arguments: object) -> torch.Tensor:
        loss = original(*arguments)  # type: ignore[arg-type]
        found.append(float(loss.detach()))
        return loss

    training._loss = spy
    try:
        changes = options_of(224, 1, None) | {"batch_size": 8, "schedule": "constant"}
        run_protocol(images, labels, images[:2], labels[:2], classes=CLASSES, protocol="hard", network="convnet6",
                     protocol_options=changes, device="cpu")  # fmt: skip
    finally:
        training._loss = original
    generator, expected = rng.generator(0, "evaluate", "convnet6", 0), list[float]()
    net = create_net("convnet6", channels=3, classes=CLASSES, size=224, norm="instance", generator=generator)
    net.to(memory_format=torch.contiguous_format).train()
    optimizer, pictures = optimiser(net, recipe), Images(images, labels, recipe).images
    torch.randint(2**62, (), generator=generator)
    for rows in torch.randperm(len(images), generator=generator).split(8):
        draws = draw(recipe, len(rows), 224, generator)
        inputs = [transformed(pictures[row], 224, injected(draws, number)) for number, row in enumerate(rows.tolist())]
        torch.rand((), generator=generator)
        loss = mixed_loss(net, torch.stack(inputs), torch.tensor(labels)[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    return {"dap": found, "reference": expected}


def measurements(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:
    """The name and the measurement of each file."""
    if "loss" in args.only:
        yield "loss", lambda: losses(crops(224, args.photos))
    timed: list[tuple[str, Callable[[str], float], int]] = []
    if "small" in args.only:
        for size, width in ((28, 32), (32, 32), (28, 128)):
            data = fashion(28, 2)[0] if size == 28 else crops(size, args.photos)
            recipe = recipe_of("convnet3", size, 5, width)
            name = f"ConvNet-3 of width {width}, {size} pixels"
            timed.append((name, lambda who, data=data, recipe=recipe: trained(who, "convnet3", data, recipe), 5))
    if "loading" in args.only:
        data, recipe = crops(224, args.photos), recipe_of("convnet6", 224, 3, None)
        timed.append(("224 pixels, loading", lambda who: loaded(who, data, recipe), 5))
    if "epoch" in args.only:
        whole, once = crops(224, args.photos), recipe_of("convnet6", 224, 1, None)
        timed.append(("ConvNet-6, 224 pixels", lambda who: trained(who, "convnet6", whole, once), 2))
    for name, measure, rounds in timed:
        for turn in range(rounds):
            for who in CONTENDERS if turn % 2 == 0 else reversed(CONTENDERS):
                yield f"{name}, {who}, {turn}", lambda measure=measure, who=who: measure(who)
    if "accuracy" in args.only:
        for seed in range(args.seeds):
            yield f"accuracy, {args.epochs} epochs, {seed}", lambda seed=seed: accuracies(seed, args.epochs)


def table(folder: Path, threads: int) -> None:
    """Print all that the folder has."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    loads = [row["load"] for row in rows.values()]
    load = f"load {min(loads):.1f} to {max(loads):.1f}"
    print(f"\n{describe_machine()['cpu']}, torch {torch.__version__}, threads: {threads}; {load}\n")
    print("| seconds of an epoch of 100 images | dap | restarted workers | persistent workers | ratios |")
    print("|---" * 5 + "|")
    timed: dict[str, dict[str, list[float]]] = {}
    for name, row in rows.items():
        case, *turn = name.rsplit(", ", 2)
        if turn and turn[0] in CONTENDERS:
            timed.setdefault(case, {who: [] for who in CONTENDERS})[turn[0]].append(row["value"])
    for case, found in timed.items():
        if all(found.values()):
            own, *theirs = (statistics.median(found[who]) for who in CONTENDERS)
            ratios = ", ".join(f"{value / own:.1f}" for value in theirs)
            print(f"| {case} | {own:.3f} | {theirs[0]:.3f} | {theirs[1]:.3f} | {ratios} |")
    if "loss" in rows:
        print("\nlosses of three steps, 224 pixels:", rows["loss"]["value"])
    pairs = [row["value"] for name, row in rows.items() if name.startswith("accuracy")]
    if len(pairs) > 1:
        own, reference = ([pair[who] for pair in pairs] for who in ("dap", "reference"))
        found = paired_difference(own, reference)
        print(f"\naccuracy: dap {statistics.mean(own):.1f}, reference {statistics.mean(reference):.1f}")
        print(f"difference {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {len(pairs)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True, help="the folder of the measurements")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=100, help="of the trainings whose accuracies are compared")
    parser.add_argument("--threads", type=int, default=1, help="of torch and dap; the references have two workers too")
    args = parser.parse_args()
    keep_freed_memory()  # as `dap evaluate` does; for the references too
    args.keep.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    for name, measure in measurements(args):
        path = args.keep / f"{name}.json"
        if not path.is_file():
            load, value = os.getloadavg()[0], measure()
            path.write_text(json.dumps({"value": value, "load": load}))
            print(f"{name}: {value}", flush=True)
    table(args.keep, args.threads)


if __name__ == "__main__":
    main()
