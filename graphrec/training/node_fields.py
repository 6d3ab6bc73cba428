"""Field codes of nodes for the click models, from the graph's feature tables."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graph_builders.feature_table import CategoricalColumn, FeatureTable, NumericColumn, RaggedColumn
from graphrec.models.inputs import NodeFields


def encode_fields(
    features: FeatureTable, names: Sequence[str], *, bag: str | None = None, num_bins: int = 20
) -> tuple[NodeFields, tuple[int, ...], int]:
    """Encode static columns of nodes as codes; code 0 is a missing value.

    Categories keep the table's codes; numbers fall into ``num_bins`` bins with as many nodes each. The tables
    are static (known before the first event), so the bins see no label and no later event.

    Returns:
        The codes of all nodes, the number of codes of each field, and of the bag (0 without one).

    Raises:
        ValueError: a field holds lists, or the bag does not.

    """
    columns, sizes = [], []
    for name in names:
        column = features[name]
        if isinstance(column, RaggedColumn):
            raise ValueError(f"field {name!r} holds several values a node: name it as `bag`")
        if isinstance(column, CategoricalColumn):
            columns.append(column.code.long())
            sizes.append(column.num_codes)
        else:
            columns.append(_quantile_bins(column, num_bins))
            sizes.append(int(columns[-1].max()) + 1)
    codes = torch.stack(columns, dim=1) if columns else torch.zeros(len(features), 0, dtype=torch.int64)
    if bag is None:
        return NodeFields(codes=codes, bag=torch.zeros(len(features), 0, dtype=torch.int64)), tuple(sizes), 0
    values = features[bag]
    if not isinstance(values, RaggedColumn):
        raise ValueError(f"the bag {bag!r} must hold several values a node, got a {type(values).__name__}")
    return NodeFields(codes=codes, bag=_pad(values)), tuple(sizes), values.num_codes


def _quantile_bins(column: NumericColumn, num_bins: int) -> Tensor:
    present = ~column.value.isnan()
    if not bool(present.any()):
        return torch.zeros(len(column.value), dtype=torch.int64)
    steps = torch.linspace(0, 1, num_bins + 1)[1:-1]
    edges = torch.quantile(column.value[present].double(), steps.double()).unique()
    code = torch.bucketize(column.value.double().nan_to_num(0.0), edges, right=True) + 1
    return code.where(present, 0)


def _pad(column: RaggedColumn) -> Tensor:
    """Values of each node side by side, -1 behind the last."""
    count = column.ptr.diff()
    row = torch.repeat_interleave(torch.arange(len(count)), count)
    place = torch.arange(len(column.code)) - column.ptr[row]
    padded = torch.full((len(count), int(count.max()) if len(count) else 0), -1, dtype=torch.int64)
    padded[row, place] = column.code.long()
    return padded
