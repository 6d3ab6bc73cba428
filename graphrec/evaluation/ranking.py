"""Figures of rankings by group, such as a user or a request: NDCG, reciprocal rank and hit rate, under ties.

Rows of a group with equal scores stand in no order, so a figure is its mean over all orders of theirs: a
constant score gets what chance gives, and not what the order of the rows happens to. Groups without a click
have no figure; they are left out and counted.
"""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from graphrec.evaluation.ctr import GROUP_SUM_COLUMNS, group_sums, sums_by_group

__all__ = ["GROUP_SUM_COLUMNS", "RankingFigure", "group_sums", "hit_rate", "mean_reciprocal_rank", "ndcg"]


@dataclass(frozen=True)
class RankingFigure:
    """A mean over groups, and what it leaves out."""

    value: float
    """NaN where no group has a click."""
    num_rows: int
    num_groups: int
    num_rows_left_out: int
    num_groups_left_out: int
    """Groups without a click have no ranking to judge and are left out."""

    @property
    def share_of_rows_left_out(self) -> float:
        """Rows in groups without a click over all rows, between 0 and 1."""
        return self.num_rows_left_out / self.num_rows

    @property
    def share_of_groups_left_out(self) -> float:
        """Groups without a click over all groups, between 0 and 1."""
        return self.num_groups_left_out / self.num_groups


def ndcg(label: ArrayLike, score: ArrayLike, group: ArrayLike, k: int = 10) -> RankingFigure:
    """Mean over groups of NDCG at ``k``: gain 1 a click, discount 1 / log2(rank + 1).

    Jarvelin and Kekalainen, TOIS 2002; ties share their gains evenly (McSherry and Najork, ECIR 2008). A
    group of clicks alone, a single row too, has the NDCG 1. Raises ``ValueError`` for ``k`` below 1 and for
    what `graphrec.evaluation.ctr.grouped_auc` refuses.
    """
    return _mean_over_groups("ndcg", label, score, group, k)


def mean_reciprocal_rank(label: ArrayLike, score: ArrayLike, group: ArrayLike) -> RankingFigure:
    """Mean over groups of 1 / rank of the first click; raises as `ndcg` does."""
    return _mean_over_groups("reciprocal_rank", label, score, group, 1)


def hit_rate(label: ArrayLike, score: ArrayLike, group: ArrayLike, k: int = 10) -> RankingFigure:
    """Mean over groups of the chance that a click is among the first ``k`` rows; raises as `ndcg` does."""
    return _mean_over_groups("hit", label, score, group, k)


def _mean_over_groups(
    column: str, label: ArrayLike, score: ArrayLike, group: ArrayLike, k: int
) -> RankingFigure:
    _, sums = sums_by_group(label, score, group, k)
    total = dict(zip(GROUP_SUM_COLUMNS, sums.sum(axis=0).tolist(), strict=True))
    num_ranked = int(total["num_ranked_groups"])
    return RankingFigure(
        value=total[column] / num_ranked if num_ranked else float("nan"),
        num_rows=int(total["num_rows"]),
        num_groups=int(total["num_groups"]),
        num_rows_left_out=int(total["rows_not_ranked"]),
        num_groups_left_out=int(total["num_groups"]) - num_ranked,
    )
