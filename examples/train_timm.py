"""Train a network of timm on a distilled set: python examples/train_timm.py SET TEST [--network resnet18]

SET is the folder of dap.distill, TEST a folder with one folder of images for each class. Any code that takes a torch
``Dataset`` works so: a set has the ``classes`` and the ``transform`` of torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

import dap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("distilled")
    parser.add_argument("test")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    square = [transforms.Lambda(lambda image: image.convert("RGB")), transforms.Resize((options.size, options.size))]
    plain = transforms.Compose([*square, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    train = dap.load(options.distilled, transform=transforms.Compose([transforms.RandomHorizontalFlip(), plain]))
    test = dap.load(options.test, transform=plain, class_map=train.classes)

    torch.manual_seed(0)
    network = timm.create_model(options.network, num_classes=train.num_classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    batches = DataLoader(train, batch_size=16, shuffle=True)  # a distilled set has few images
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=options.epochs * len(batches))
    for _ in range(options.epochs):
        for images, labels in batches:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
            schedule.step()

    network.eval()
    with torch.inference_mode():
        right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, 64))
    print(f"{options.network}: {right} of {len(test)} test images are right ({100 * right / len(test):.1f} %)")


if __name__ == "__main__":
    main()
