"""Share a set on the hub, load it elsewhere, and train on it: python hub_user.py USER [FOLDER]

Log in first: hf auth login. docs/tutorials/share.md explains the steps.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from torch.nn.functional import cross_entropy

import dap

CLASSES = ["Dress", "Bag", "Sneaker"]


def share(repo_id: str, folder: Path) -> None:
    """Make a set, measure it, and upload it with its card."""
    made = dap.distill(
        "fashion-mini", method="k_medoids", features="pixels", classes=CLASSES, ipc=5, out=folder, progress=False
    )
    test = dap.open_source("fashion-mini", split="test", classes=CLASSES)
    result = dap.evaluate(made, test, repeats=2, protocol_options={"few_steps": 30, "checks": 1})
    print(made.push_to_hub(repo_id, results=[result]))


def train(repo_id: str) -> float:
    """Load the set from the hub, train on it, and return the accuracy on real images."""
    again = dap.load(repo_id)
    torch.manual_seed(0)
    network = dap.nets.create_net(
        "convnet3", channels=1, size=32, classes=again.num_classes, generator=torch.Generator()
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(30):
        for images, labels in again.loader(64, augment="flip"):
            optimiser.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimiser.step()
    test = dap.open_source("fashion-mini", split="test", classes=CLASSES)
    images, labels = dap.load(test, class_map=again.classes).to_torch()
    network.eval()
    with torch.inference_mode():
        return float((network(images / 255).argmax(1) == labels).float().mean())


def main() -> None:
    repo_id = f"{sys.argv[1]}/fashion-15"
    share(repo_id, Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()) / "set")
    print(Path(hf_hub_download(repo_id, "README.md", repo_type="dataset")).read_text())
    print(f"accuracy on real images: {100 * train(repo_id):.1f} %")


if __name__ == "__main__":
    main()
