"""Class embeddings: the tables in which a network looks labels up, and rows that were learned for more classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from dap.data.classmap import NULL_LABELS
from dap.errors import OptionError
from dap.priors.taps import replaced

__all__ = ["ClassEmbeddings"]


class ClassEmbeddings:
    """The class embeddings of a network, and those that were learned later.

    Args:
        tables: The embeddings, in the order in which they run; a DiT has one in each block.
        modules: The module that looks a label up in each of them and returns (B, D).
        null: The label of the null condition; None if there is none.
        learned: Rows (tables, D) of further classes by name; their labels follow the network's labels, in this order.

    Attributes:
        shape: (tables, D).
        labels: Labels of the learned classes by name.
        learned: Their rows by name.

    Raises:
        OptionError: Learned rows of another shape.
    """

    def __init__(
        self,
        tables: Sequence[nn.Embedding],
        modules: Sequence[nn.Module],
        *,
        null: int | None,
        learned: Mapping[str, Tensor] | None,
    ) -> None:
        self._tables, self._modules, self._null = list(tables), list(modules), null
        self.shape = (len(self._tables), self._tables[0].embedding_dim)
        self._count = self._tables[0].num_embeddings
        self.learned = learned = dict(learned or {})
        for name, rows in learned.items():
            if tuple(rows.shape) != self.shape:
                raise OptionError(f"learned rows of {name!r}: expected shape {self.shape}, got {tuple(rows.shape)}")
        self.labels = {name: self._count + number for number, name in enumerate(learned)}
        weight = self._tables[0].weight
        empty = weight.new_zeros(self.shape[0], 0, self.shape[1])
        self._learned_rows = torch.cat([empty, *(rows.to(weight)[:, None] for rows in learned.values())], 1)

    def rows(self, labels: Tensor) -> Tensor:
        """Return the rows of labels (B,), float32 (B, tables, D); labels of the null condition have its rows."""
        if self._null is not None:
            labels = torch.where(labels >= NULL_LABELS, self._null, labels)
        tables = zip(self._tables, self._learned_rows, strict=True)
        return torch.stack([torch.cat([table.weight, learned])[labels] for table, learned in tables], 1).float()

    def any_learned(self, labels: Tensor) -> bool:
        """Return whether one of these labels may be that of a learned class."""
        return (
            bool(self.labels)
            and not labels.is_meta
            and int(labels.max()) >= self._count
            and int(labels.min()) < NULL_LABELS
        )

    def replaced_by(self, condition: Tensor) -> AbstractContextManager[None]:
        """Return a context in which the network takes these rows, (B, tables, D), whatever its labels are."""
        return replaced(self._modules, condition.unbind(1))
