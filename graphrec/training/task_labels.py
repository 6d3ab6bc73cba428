"""Labels of downstream tasks as numbers, row by row beside the sentences, and their losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from graph_builders.datasets.downstream_tasks import DownstreamTask
from graphrec.losses import masked_multi_task_loss
from samplers.queries import expand_ranges
from samplers.tables import with_zero

UNKNOWN_CLASS = -1
"""A category that no training label holds: it is never predicted, and counts in the size of its set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryLabels:
    """A label, or none, for each row.

    Attributes:
        name: of the task.
        value: 0 or 1, NaN where the row has no label.

    """

    name: str
    value: Float32[Tensor, " num_rows"]

    @property
    def num_outputs(self) -> int:
        """Logits that a head gives."""
        return 1

    @property
    def has_label(self) -> Tensor:
        """Say which rows have a label; (num_rows,) bool."""
        return ~self.value.isnan()

    def take(self, row: Int64[Tensor, " num_taken"]) -> "BinaryLabels":
        """Return the labels of the given rows; of row -1 none."""
        value = torch.cat([self.value, self.value.new_full((1,), torch.nan)])  # row -1 is the last one
        return BinaryLabels(name=self.name, value=value[row.to(value.device)])

    def to(self, device: torch.device | str) -> "BinaryLabels":
        """Copy to another device."""
        return BinaryLabels(name=self.name, value=self.value.to(device))

    def start(self) -> Float[Tensor, " num_outputs"]:
        """Return logits of the labels' share of ones, half a one and half a zero added."""
        known = self.value[self.has_label]
        ones = known.sum() + 0.5
        return torch.log(ones / (len(known) + 1 - ones))[None]

    def probability(self, logit: Float[Tensor, "num_rows num_outputs"]) -> Tensor:
        """Return the probability of a 1; (num_rows, 1) float64."""
        return logit.double().sigmoid()

    def loss(self, logit: Float[Tensor, "num_rows num_outputs"]) -> Float[Tensor, ""]:
        """Return the mean binary cross entropy of the labelled rows, 0 where there is none."""
        return masked_multi_task_loss(logit, self.value[:, None])


@dataclass(frozen=True, kw_only=True, eq=False)
class SetLabels:
    """A set of classes, or none, for each row.

    Attributes:
        name: of the task.
        classes: the category of each class.
        ptr: boundaries of the rows' sets; an empty one is no label.
        code: classes, or ``UNKNOWN_CLASS``.

    """

    name: str
    classes: tuple[str, ...]
    ptr: Int64[Tensor, " num_rows_and_one"]
    code: Int64[Tensor, " num_codes"]

    @property
    def num_outputs(self) -> int:
        """Logits that a head gives."""
        return len(self.classes)

    @property
    def has_label(self) -> Tensor:
        """Say which rows have a known class; (num_rows,) bool."""
        known = (self.code >= 0).long()
        return with_zero(known.cumsum(0))[self.ptr].diff() > 0

    def take(self, row: Int64[Tensor, " num_taken"]) -> "SetLabels":
        """Return the labels of the given rows; of row -1 none."""
        row = row.to(self.ptr.device)
        count = torch.cat([self.ptr.diff(), self.ptr.new_zeros(1)])[row]
        code = self.code[expand_ranges(self.ptr[row], count)[1]]
        return SetLabels(name=self.name, classes=self.classes, ptr=with_zero(count.cumsum(0)), code=code)

    def to(self, device: torch.device | str) -> "SetLabels":
        """Copy to another device."""
        return SetLabels(
            name=self.name, classes=self.classes, ptr=self.ptr.to(device), code=self.code.to(device)
        )

    def start(self) -> Float[Tensor, " num_outputs"]:
        """Return logs of the classes' shares of all labels, half a label added to each."""
        count = torch.bincount(self.code[self.code >= 0], minlength=self.num_outputs) + 0.5
        return torch.log(count / count.sum())

    def probability(self, logit: Float[Tensor, "num_rows num_outputs"]) -> Tensor:
        """Return the softmax; (num_rows, num_outputs) float64."""
        return logit.double().softmax(dim=1)

    def loss(self, logit: Float[Tensor, "num_rows num_outputs"]) -> Float[Tensor, ""]:
        r"""Return the mean over labelled rows of the cross entropy, 0 where there is none.

        The softmax is compared with the row's set, each of whose known classes has the same share:
        :math:`-\frac{1}{|S|} \sum_{c \in S} \log \operatorname{softmax}(z)_c`.
        """
        num_rows = len(logit)
        row = torch.arange(num_rows, device=logit.device).repeat_interleave(self.ptr.diff())
        known = self.code >= 0
        row, code = row[known], self.code[known]
        size = torch.bincount(row, minlength=num_rows)
        log_probability = logit.float().log_softmax(dim=1)[row, code]
        return -(log_probability / size[row]).sum() / (size > 0).sum().clamp(min=1)


TaskLabels = BinaryLabels | SetLabels


def labels_of(task: DownstreamTask, classes: Sequence[str] | None = None) -> TaskLabels:
    """Return the labels of a task's queries, in their order.

    A category that stands in a set twice counts once.

    Args:
        task: binary, or of sets.
        classes: of sets; default: the categories of the training queries' labels, by name, so that a class's
            number tells nothing of it.

    Raises:
        ValueError: the task has no training queries to take classes from.

    """
    label = task.queries["label"]
    if task.kind == "binary":
        value = label.cast(pl.Float32).fill_null(float("nan"))
        return BinaryLabels(name=task.name, value=torch.from_numpy(value.to_numpy().copy()))
    if classes is None:
        named = task.part("train")["label"].cast(pl.List(pl.String)).explode().drop_nulls()
        classes = named.unique().sort().to_list()
    number = pl.DataFrame(
        {"category": list(classes), "code": range(len(classes))},
        schema={"category": pl.String, "code": pl.Int64},
    )
    # a category counts once in its set
    sets = label.cast(pl.List(pl.String)).list.drop_nulls().fill_null([]).list.unique(maintain_order=True)
    # a left join keeps the order of the rows that it is asked to keep
    flat = sets.list.explode(empty_as_null=False, keep_nulls=False).alias("category").to_frame()
    code = flat.join(number, on="category", how="left", maintain_order="left")["code"]
    size = torch.from_numpy(sets.list.len().cast(pl.Int64).to_numpy().copy())
    return SetLabels(
        name=task.name,
        classes=tuple(classes),
        ptr=with_zero(size.cumsum(0)),
        code=torch.from_numpy(code.fill_null(UNKNOWN_CLASS).to_numpy().copy()),
    )
