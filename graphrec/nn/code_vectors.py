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
        self.channels = list(channels)
        self.out_channels = sum(channels)
        self.tables = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(num_codes, channels, strict=True)
        )
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]

    def part(self, columns: Sequence[int]) -> "CodeVectors":
        """Return vectors of some of the columns, whose embeddings are these and are learned together.

        Args:
            columns: by number, in the order of the codes that the part is given.

        """
        part = CodeVectors((), ())
        part.tables = nn.ModuleList(self.tables[column] for column in columns)
        part.channels = [self.channels[column] for column in columns]
        part.out_channels = sum(part.channels)
        return part

    def forward(self, code: Int64[Tensor, "num_rows num_columns"]) -> Float[Tensor, "num_rows channels"]:
        """Return a vector for each row."""
        if not self.tables:
            return torch.zeros(len(code), 0, device=code.device)
        return torch.cat(
            [table(column) for table, column in zip(self.tables, code.T.contiguous(), strict=True)], dim=1
        )


class MappedCodes(nn.Module):
    """A vector of a row of codes: a linear map and ReLU of their embeddings, or learned without columns.

    Args:
        tables: embeddings of the codes. Other modules may share them.
        channels: of the vector.

    Attributes:
        tables: as given.
        out_channels: as given.

    """

    def __init__(self, tables: CodeVectors, channels: int) -> None:
        super().__init__()
        self.tables, self.out_channels = tables, channels
        has_columns = len(tables.tables) > 0
        self.map = nn.Linear(tables.out_channels, channels) if has_columns else None
        self.without_columns = nn.Parameter(torch.zeros(0 if has_columns else channels))

    def forward(self, code: Int64[Tensor, "num_rows num_columns"]) -> Float[Tensor, "num_rows channels"]:
        """Return a vector for each row.

        Raises:
            ValueError: the codes have other columns than the tables.

        """
        if code.shape[1] != len(self.tables.tables):
            raise ValueError(
                f"the tables are of {len(self.tables.tables)} columns of codes, the rows have "
                f"{code.shape[1]}: make both of one vocabulary"
            )
        if self.map is None:
            return self.without_columns.expand(len(code), -1)
        return torch.relu(self.map(self.tables(code)))
