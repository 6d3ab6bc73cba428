"""Average precision at k of a score for each class, against a set of relevant classes a query: mAP@k.

For the next genre (UserBERT, Li et al., 2022): the relevant set is the genres of the next basket. Classes
with equal scores stand in no order, as in ``graphrec.evaluation.ranking``: a figure is its mean over all
orders of theirs, so that a constant score gets what chance gives, and not what the classes' numbers happen
to be.

The mean over queries is mAP@k. For its interval, and for the difference of two models under a bootstrap over
users, add the queries' values up by user and resample the users' sums, both models at once::

    values = np.stack([average_precision_at_k(score, ptr, relevant) for score in (score_a, score_b)], axis=1)
    user, code = np.unique(user_id, return_inverse=True)
    sums = np.zeros((len(user), 3))
    np.add.at(sums, code, np.column_stack([values, np.ones(len(values))]))
    drawn = bootstrap_sums(sums, num_resamples=2000, random_seed=0)
    difference = (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]
    lower, upper = interval_of(difference)
    p_value = p_value_of(float((values[:, 0] - values[:, 1]).mean()), difference)

with ``bootstrap_sums``, ``interval_of`` and ``p_value_of`` of ``graphrec.evaluation.significance``.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from samplers.tables import with_zero

_SCORES_AT_ONCE = 1 << 23


def average_precision_at_k(
    score: Float[Tensor, "num_queries num_classes"],
    ptr: Int64[Tensor, " num_queries_and_one"],
    relevant: Int64[Tensor, " num_relevant"],
    *,
    k: int = 10,
) -> Float64[np.ndarray, " num_queries"]:
    r"""Return each query's average precision among its first k classes.

    .. math::
        \operatorname{AP@}k = \frac{1}{\min(k, |S|)} \sum_{i \le k} [c_i \in S] \frac{|S \cap c_{1..i}|}{i}

    for the classes :math:`c_1, c_2, \dots` by falling score and the relevant set S; the mean of that over the
    orders of equal scores, as McSherry and Najork (ECIR 2008) give it: at place j of a tie of m classes, r of
    them relevant, behind R relevant ones, the expected term is (r / m) (R + 1 + (j - 1)(r - 1)/(m - 1)) / i.

    Args:
        score: of each class; higher comes first.
        ptr: query q's relevant classes are ``relevant[ptr[q]:ptr[q + 1]]``.
        relevant: class numbers, each once a query; -1 for one that no score is given for: it counts in
            \|S\| and is never found.
        k: places that are looked at.

    Raises:
        ValueError: ``k`` is below 1, a score is not finite, a class number is out of range or twice in a
            query, a query has no relevant class, or ``ptr`` does not fit.

    """
    num_queries, num_classes = score.shape
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not bool(torch.isfinite(score).all()):
        bad = int((~torch.isfinite(score)).any(dim=1).nonzero()[0])
        raise ValueError(f"scores must be finite, the first query with another one is {bad}")
    size = ptr.diff()
    if len(ptr) != num_queries + 1 or int(ptr[0]) or int(ptr[-1]) != len(relevant) or bool((size < 0).any()):
        raise ValueError(f"ptr must rise from 0 to {len(relevant)} over {num_queries} queries")
    if bool((size == 0).any()):
        bad = int((size == 0).nonzero()[0])
        raise ValueError(f"query {bad} has no relevant class: leave such queries out")
    row = torch.arange(num_queries, device=score.device).repeat_interleave(size)
    if bool(((relevant < -1) | (relevant >= num_classes)).any()):
        low, high = (int(bound) for bound in relevant.aminmax())
        raise ValueError(f"relevant classes must lie in [-1, {num_classes}), got [{low}, {high}]")
    scored = relevant >= 0
    row, relevant = row[scored], relevant[scored]
    if len((row * num_classes + relevant).unique()) < len(row):
        raise ValueError("a relevant class is twice in a query: name each once")
    found = [torch.zeros(0, dtype=torch.float64, device=score.device)]
    first_pair = with_zero(torch.bincount(row, minlength=num_queries).cumsum(0))
    step = max(1, _SCORES_AT_ONCE // max(1, num_classes))
    for first in range(0, num_queries, step):
        stop = min(first + step, num_queries)
        pairs = slice(int(first_pair[first]), int(first_pair[stop]))
        found.append(_precision_sum(score[first:stop], row[pairs] - first, relevant[pairs], k))
    precision: np.ndarray = (torch.cat(found) / size.clamp(max=k)).cpu().numpy()
    return precision


def _precision_sum(score: Tensor, row: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Sum over the first k places of the expected precision at a relevant class, of some queries."""
    num_queries, num_classes = score.shape
    width = min(k, num_classes)
    if not width:
        return score.new_zeros(num_queries, dtype=torch.float64)
    top = score.topk(width, dim=1).values
    place = torch.arange(1, width + 1, device=score.device)
    # a tie is whole among the first places, but for the last one, which may go on behind them
    before = (top[:, None, :] > top[:, :, None]).sum(dim=2)
    tied = (top[:, None, :] == top[:, :, None]).sum(dim=2)
    last = top[:, -1:]
    tied = torch.where(top == last, (score == last).sum(dim=1, keepdim=True), tied)
    of_relevant = score[row, relevant][:, None]
    relevant_before = torch.zeros(num_queries, width, dtype=torch.int64, device=score.device)
    relevant_tied = relevant_before.clone()
    relevant_before.index_add_(0, row, (of_relevant > top[row]).long())
    relevant_tied.index_add_(0, row, (of_relevant == top[row]).long())
    place_in_tie = place - before
    others = (relevant_tied - 1) / (tied - 1).clamp(min=1).double()
    expected = relevant_before + 1 + (place_in_tie - 1) * others
    return (relevant_tied / tied.double() * expected / place).sum(dim=1)
