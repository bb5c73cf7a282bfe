"""Train on a distilled set with Lightning: pip install lightning; python examples/train_lightning.py SET TEST"""

from __future__ import annotations

import argparse

import lightning
import timm
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms

import dap


class Classifier(lightning.LightningModule):
    def __init__(self, network: str, classes: int, channels: int) -> None:
        super().__init__()
        self.network = timm.create_model(network, num_classes=classes, in_chans=channels)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def test_step(self, batch: list[torch.Tensor], _: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("distilled")
    parser.add_argument("test")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()

    lightning.seed_everything(0)
    train = dap.load(options.distilled)
    channels = train[0][0].shape[0]
    plain = transforms.Compose(
        [
            transforms.Grayscale() if channels == 1 else transforms.Lambda(lambda image: image.convert("RGB")),
            transforms.Resize((options.size, options.size)),
            transforms.ToTensor(),
        ]
    )
    test = dap.load(options.test, transform=plain, class_map=train.classes)
    # dap's own loader: the images are decoded once and augmented as batches
    batches = train.loader(16, augment="flip", size=options.size)
    trainer = lightning.Trainer(
        max_epochs=options.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module = Classifier(options.network, train.num_classes, channels)
    trainer.fit(module, batches)
    print(trainer.test(module, DataLoader(test, 64), verbose=False))


if __name__ == "__main__":
    main()
