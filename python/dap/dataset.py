"""A distilled dataset: labelled images to train on, show and save, made by dap or by another method's authors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.config import check_whole
from dap.data.hub import check_repo_id, upload_folder
from dap.data.labelled_set import LabelledSet, Transform
from dap.data.manifest import MANIFEST
from dap.data.open import SourceLike, check_outside, open_source
from dap.data.packing import source_samples, write_packed
from dap.data.source import Source
from dap.data.weights import WEIGHTS, class_weights
from dap.report import hub_card, sheet_html, source_sheet

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from dap.evaluation import EvaluationResult
    from dap.loader import Augment, Loader

__all__ = ["DistilledDataset"]


class DistilledDataset(LabelledSet):
    """Labelled images to train a classifier on; made by :func:`dap.load` and :func:`dap.distill`.

    It has what torchvision's ``ImageFolder`` has (``classes``, ``class_to_idx``, ``transform``, ``[i]``): see
    :class:`dap.data.labelled_set.LabelledSet`. A slice is a set of its own.

    Args:
        source: The images.
        manifest: The manifest of the run that made them.
        best_first: Indices of each class's images, best first; None: in the source's order.
        tensors: Arrays by name with a row for each image.
        transform: Turns each image that is indexed, a Pillow image, into another value.

    Attributes:
        source: The images as a :class:`dap.data.source.Source`, which decodes an image when it is used.
        manifest: The content of ``dap.json``: options, versions, seeds, class map, hashes, seconds. Empty for a set
            that ``dap.distill`` did not make.

    Example:
        >>> import dap
        >>> distilled = dap.load("distilled", transform=torchvision.transforms.ToTensor())  # doctest: +SKIP
        >>> image, label = distilled[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Source,
        *,
        manifest: dict[str, Any] | None = None,
        best_first: Sequence[np.ndarray] | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(source, transform=transform)
        self.manifest = manifest or {}
        self._tensors = dict(tensors or {})
        self._best_first = best_first or [source.of_class(label) for label in range(len(self.class_names))]

    def select(self, indices: np.ndarray) -> DistilledDataset:
        """Return the images with these indices, in this order, as a set with the same classes and transform."""
        return DistilledDataset(
            self.source.select(indices), manifest=self.manifest, transform=self.transform,
            tensors={name: array[indices] for name, array in self._tensors.items()},
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors saved with the images (soft labels, latents, …) by name, with a row for each image; may be empty."""
        import torch

        return {name: torch.from_numpy(array.copy()) for name, array in self._tensors.items()}

    @property
    def weights(self) -> np.ndarray | None:
        """How much each image counts in its class, float32 (N,), with a mean of 1 in each class; None: it has none.

        Methods that make an image for each cluster of real images record the sizes of the clusters. Other sets have
        the weights that are saved with them, ``save(..., tensors={"weights": ...})``, in any unit. They are scaled
        here, so that those of a part of a set are too.

        Raises:
            OptionError: The weights are not one number of at least 0 for each image, and above 0 for some image of each
                class.
        """
        return class_weights(self._tensors, self.labels, self.class_names)

    def take(self, n: int) -> DistilledDataset:
        """The best n images of each class, best first, as a set of their own.

        Images are ranked by the method (``rank`` in the manifest), so that the first n represent the class well for
        each n. Without a ranking these are the first n images.

        Args:
            n: Images of each class, from 1 to the number that the smallest class has.

        Raises:
            OptionError: ``n`` is out of that range.

        Example:
            >>> import dap
            >>> images, labels = dap.load("distilled").take(5).to_torch()  # doctest: +SKIP
        """
        rankings = [best for best in self._best_first if len(best)]
        check_whole("take", n, 1, min(map(len, rankings)))
        return self.select(np.concatenate([best[:n] for best in rankings]))

    def loader(
        self,
        batch_size: int,
        *,
        augment: Augment | None = None,
        size: int | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Loader:
        """Batches for training: the set is decoded once, stays on the device, and is augmented there.

        Args:
            batch_size: Images of a batch.
            augment: None, "flip", "crop" or "standard" (:func:`dap.nets.get_augmentation`), a
                :class:`dap.nets.Augmentation`, or a function of uint8 images (B, C, H, W) and a generator.
            size: See :meth:`to_torch`.
            seed: Root of order and augmentation. The batches of an epoch depend on the seed and its number alone.
            device: Device of the images; None: the GPU if there is one.
            shuffle: Whether to shuffle the images anew in each epoch.
            drop_last: Whether to leave out a last batch that is not full.
            mean: Mean of each channel, for normalisation (x − mean) / std; None: values stay in [0, 1].
            std: Standard deviation of each channel; given together with ``mean``.

        Returns:
            An iterable with a length: images, float32 (B, C, H, W), and labels, int64 (B,).

        Example:
            >>> import dap
            >>> loader = dap.load("distilled").loader(64, augment="standard")  # doctest: +SKIP
        """
        from dap.loader import Loader

        return Loader(
            *self.to_torch(size=size), batch_size=batch_size, augment=augment, seed=seed, device=device,
            shuffle=shuffle, drop_last=drop_last, mean=mean, std=std,
        )  # fmt: skip

    def save(
        self,
        out: str | Path,
        format: str = "imagefolder",
        *,
        codec: str | None = None,
        quality: int = 95,
        maxcount: int = 100_000,
        maxsize: int = 500_000_000,
        on_error: str = "raise",
        tensors: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        """Packs the set into a format that other packages read, by :func:`dap.data.packing.write_packed`.

        Args:
            out: The folder: new, empty, or of the same packing.
            format: "imagefolder", "webdataset", "parquet" or "safetensors".
            codec: "png", "jpeg" or "webp" (lossless); None keeps the files as they are.
            quality: JPEG quality, 1 to 100.
            maxcount: Most images of a shard.
            maxsize: Most bytes of a shard's images.
            on_error: "skip" leaves out images that cannot be decoded, and lists them.
            tensors: Arrays or tensors by name with a row for each image, such as soft labels or latents, to save with
                the images, floats as float16; :func:`dap.load` returns them in ``tensors``. None: those of this set.
                Its weights (:attr:`weights`) are saved in any case.

        Returns:
            The content of ``pack.json``: "files", "images", "skipped", and this set's manifest as "provenance".

        Raises:
            DapError: A subclass of it, for a bad option, a damaged image, or a folder that holds something else.

        Example:
            >>> import dap
            >>> dap.load("distilled").save("shards", "webdataset")  # doctest: +SKIP
        """
        if not (self.path / MANIFEST).is_file():  # a run's folder may hold more, since its manifest names its images
            check_outside(Path(out), self.source)
        tensors = self._tensors if tensors is None else self._own_weights() | dict(tensors)
        class_weights(tensors, self.labels, self.class_names)  # raises before anything is written
        provenance = self.manifest or {"name": self.source.name, "identity": self.source.identity()}
        return write_packed(
            source_samples(self.source), out, format=format, class_names=self.class_names, provenance=provenance,
            codec=codec, quality=quality, maxcount=maxcount, maxsize=maxsize, on_error=on_error,
            tensors=tensors,
        )  # fmt: skip

    def _own_weights(self) -> dict[str, np.ndarray]:
        return {name: array for name, array in self._tensors.items() if name == WEIGHTS}

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Sequence[EvaluationResult] = (),
        real: SourceLike | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload the set by dap",
    ) -> str:
        """Uploads the set as a dataset of the Hugging Face hub: Parquet, ``pack.json``, tensors, and a dataset card.

        The card has licence, prior, method, seeds, the command, results, limits and citation. ``dap.load(repo_id)``
        opens the set again with its manifest and ranking; ``datasets.load_dataset`` and the hub's viewer read it too.

        Args:
            repo_id: The dataset repository, "user/name"; made if there is none, else its images are replaced.
            results: Results of :func:`dap.evaluate`, whose tables with errors and intervals the card shows.
            real: The real images; the card then says how many generated images may be copies of one.
            private: Whether a new repository is private; None: as the account has it.
            token: A token of the hub; None: that of ``hf auth login`` or ``$HF_TOKEN``.
            commit_message: The commit's message.

        Returns:
            The URL of the repository.

        Raises:
            OptionError: ``repo_id`` is no name of a repository.
            SourceError: The hub refuses or cannot be reached, or ``pyarrow`` is not installed.

        Example:
            >>> import dap
            >>> dap.load("distilled").push_to_hub("me/fashion-10")  # doctest: +SKIP
        """
        check_repo_id(repo_id)
        copies = None if real is None else self._copies(open_source(real, classes=self.class_names))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "set")
            self.save(folder, "parquet")
            self.show().save(folder / "contact_sheet.png")
            tables = [result.table() for result in results]
            card = hub_card(
                repo_id, self.source, self.manifest, sheet="contact_sheet.png", results=tables, copies=copies
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            return upload_folder(
                folder, repo_id, private=private, token=token, message=commit_message, replaces="train-*"
            )

    def _copies(self, real: Source) -> int:
        """Return how many images are nearer to a real image than this is to another, by small pixels."""
        from dap.features import encoder_by_name
        from dap.metrics import nearest_real

        encoder = encoder_by_name("pixels")
        return int((~nearest_real(encoder.rows(self.source), encoder.rows(real)).authentic).sum())

    def show(self) -> Image.Image:
        """The contact sheet, as a Pillow image; of a run with method, images per class and seed above it."""
        return source_sheet(self.source, self.manifest)

    def __repr__(self) -> str:
        method = f", method {self.manifest['options']['method']['name']!r}" if self.manifest else ""
        return f"DistilledDataset({self.source.name!r}, {len(self)} images, {len(self.class_names)} classes{method})"

    def _repr_html_(self) -> str:
        return sheet_html(self.show(), repr(self))
