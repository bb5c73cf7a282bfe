"""Published tables that ``reproduce_table.py`` prints beside its own: what was evaluated, how, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COLUMNS = ("random", "dit", "igd", "mgd3", "dap")  # methods of dap; presets of a method stand beside the same number


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it is.
        sets: The classes of each set of images, by its name; None: all.
        ipc: Images a class.
        networks: The networks.
        protocol: The protocol, and in `protocol_options` the constants that are changed.
        methods: The methods that are run unless others are named.
        sampling: Options of `dap.distill`.
        teacher: The teacher of soft labels.
        theirs: Accuracies as printed, by set, network, images a class and method; where one is not there, it is not
            known here.
        source: Where they are printed.
    """

    title: str
    sets: Mapping[str, tuple[str, ...] | None]
    ipc: tuple[int, ...]
    networks: tuple[str, ...]
    protocol: str
    methods: tuple[str, ...]
    source: str
    sampling: Mapping[str, object] = field(default_factory=dict)
    protocol_options: Mapping[str, object] = field(default_factory=dict)
    teacher: str | None = None
    theirs: Mapping[tuple[str, str, int, str], str] = field(default_factory=dict)


NETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
)  # fmt: skip
WOOF = (
    "n02096294", "n02093754", "n02111889", "n02088364", "n02086240", "n02089973", "n02087394", "n02115641", "n02099601",
    "n02105641",
)  # fmt: skip

DAP3_THEIRS = """
ImageNette convnet6     10   46.0±0.5 56.2±1.3 61.9±1.9 56.2±1.7 64.8±0.8
ImageNette convnet6     50   71.8±1.2 74.1±0.6 80.9±0.9 79.0±0.3 82.2±1.6
ImageNette convnet6     100  79.9±0.8 78.2±0.3 84.5±0.7 84.4±0.6 85.7±1.3
ImageNette resnet_ap10  10   54.2±1.2 62.8±0.8 66.5±1.1 66.4±2.4 67.8±1.2
ImageNette resnet_ap10  50   77.3±1.0 76.9±0.5 81.0±1.2 79.5±1.3 82.3±0.7
ImageNette resnet_ap10  100  81.1±0.6 80.1±1.1 85.2±0.5 85.0±0.4 86.0±2.1
ImageNette resnet18     10   55.8±1.0 62.5±0.9 67.7±0.3 61.2±1.4 66.4±0.5
ImageNette resnet18     50   75.8±1.1 75.2±0.9 81.0±0.7 80.8±0.9 82.8±1.1
ImageNette resnet18     100  82.0±0.4 77.8±0.6 84.4±0.8 83.7±1.3 85.5±1.5
ImageWoof  convnet6     10   25.2±1.1 32.3±0.8 35.0±0.8 34.7±1.1 37.6±0.9
ImageWoof  convnet6     50   41.9±1.4 48.5±1.3 54.2±0.7 54.5±1.6 55.8±0.4
ImageWoof  convnet6     100  52.3±1.5 54.2±1.5 61.1±1.0 60.1±1.2 62.4±1.2
ImageWoof  resnet_ap10  10   31.6±0.8 39.0±0.9 41.0±0.8 40.4±1.9 41.8±0.7
ImageWoof  resnet_ap10  50   50.1±1.6 55.8±1.1 62.7±1.2 56.5±1.9 63.3±0.5
ImageWoof  resnet_ap10  100  59.2±0.9 62.5±0.9 69.7±0.9 66.5±1.0 70.8±1.4
ImageWoof  resnet18     10   30.9±1.3 40.6±0.6 44.8±0.8 38.5±2.5 43.9±0.9
ImageWoof  resnet18     50   54.0±0.8 57.4±0.7 62.0±1.1 58.3±1.4 63.2±0.7
ImageWoof  resnet18     100  63.6±0.5 62.3±0.5 70.6±1.8 68.8±0.7 71.6±1.3
"""


def _read(text: str) -> dict[tuple[str, str, int, str], str]:
    found = {}
    for line in text.strip().splitlines():
        name, network, ipc, *values = line.split()
        for method, value in zip(COLUMNS, values, strict=True):
            found[name, network, int(ipc), method] = value.replace("±", " ± ")
    return found


DIT_XL = {"sampling": "dit-repo"}

TABLES = {
    "dap3": Table(
        "Table 3 of DAP: hard labels, DiT-XL/2", {"ImageNette": NETTE, "ImageWoof": WOOF}, (10, 50, 100),
        ("convnet6", "resnet_ap10", "resnet18"), "hard", ("dit", "dap:paper"), "Su et al., ICLR 2026, arXiv 2510.17421",
        sampling=DIT_XL, theirs=_read(DAP3_THEIRS),
    ),
    "dap5": Table(
        "Table 5 of DAP: ImageNet-1K, soft labels of a ResNet-18, other networks", {"ImageNet-1K": None}, (50,),
        ("resnet101", "mobilenet_v2", "efficientnet_b0", "swin_v2_t"), "rded", ("dit", "dap:paper"),
        "Su et al., ICLR 2026, arXiv 2510.17421; the paper does not name the recipe of the soft labels",
        sampling=DIT_XL, teacher="torchvision/resnet18", theirs={("ImageNet-1K", "resnet101", 50, "dap"): "68.1"},
    ),
    "fashion": Table(
        "Not a published table: the same run on the built-in images, with few steps and epochs",
        {"fashion-mini": ("Bag", "Dress", "Sandal")},
        (1, 2), ("convnet3", "small_mlp"), "hard", ("dit", "dap:paper"), "nobody",
        sampling={"num_inference_steps": 4}, protocol_options={"size": 32, "width": 16, "epochs": 5},
    ),
}  # fmt: skip
