"""Class embeddings: the tables in which a network looks its labels up, and rows that were learned beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from dap.data.classmap import NULL_LABELS
from dap.errors import OptionError
from dap.priors.taps import replaced

__all__ = ["ClassTables"]


class ClassTables:
    """The class embeddings of a network, and those that it was taught later.

    Args:
        tables: The embeddings, in the order in which they run; a DiT has one in each block.
        modules: What looks a label up in each of them, and gives (B, D).
        null: The label of the null condition, None where there is none.
        learned: Rows (tables, D) of further classes by name; their labels follow the network's own, in this order.

    Attributes:
        shape: (tables, D).
        labels: Labels of the learned classes by name.
        learned: Their rows by name.
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
        self._own = self._tables[0].num_embeddings
        self.learned = learned = dict(learned or {})
        for name, rows in learned.items():
            if tuple(rows.shape) != self.shape:
                raise OptionError(f"learned rows of {name!r}: expected shape {self.shape}, got {tuple(rows.shape)}")
        self.labels = {name: self._own + number for number, name in enumerate(learned)}
        weight = self._tables[0].weight
        none = weight.new_zeros(self.shape[0], 0, self.shape[1])
        self._rows = torch.cat([none, *(rows.to(weight)[:, None] for rows in learned.values())], 1)

    def of(self, labels: Tensor) -> Tensor:
        """Rows of labels (B,), float32 (B, tables, D)."""
        chosen = self.looked_up(labels)
        found = [torch.cat([table.weight, more])[chosen] for table, more in zip(self._tables, self._rows, strict=True)]
        return torch.stack(found, 1).float()

    def are_own(self, labels: Tensor) -> bool:
        """Whether the network itself knows all of these labels."""
        return not self.labels or int(labels.max()) < self._own or int(labels.min()) >= NULL_LABELS

    def looked_up(self, labels: Tensor) -> Tensor:
        """Labels as the tables have them: a class that stands for no label has that of the null condition."""
        return labels if self._null is None else torch.where(labels >= NULL_LABELS, self._null, labels)

    def replaced_by(self, condition: Tensor) -> AbstractContextManager[Any]:
        """While the network runs it takes these rows, (B, tables, D), for those of its labels."""
        return replaced(self._modules, condition.unbind(1))
