"""Embeddings of rows that hold a code in each of several columns: a behaviour's item, a task's entity."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class CodeVectors(nn.Module):
    """Embeddings of several columns of codes, side by side.

    Args:
        num_codes: of each column.
        channels: of each column's embedding.

    """

    def __init__(self, num_codes: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = sum(channels)
        self.tables = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(num_codes, channels, strict=True)
        )
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]

    def forward(self, code: Int64[Tensor, "num_rows num_columns"]) -> Float[Tensor, "num_rows channels"]:
        """Return a vector for each row."""
        if not self.tables:
            return torch.zeros(len(code), 0, device=code.device)
        return torch.cat(
            [table(column) for table, column in zip(self.tables, code.T.contiguous(), strict=True)], dim=1
        )
