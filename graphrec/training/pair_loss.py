"""A loss of the order of a user's own impressions, to be added to the loss of each impression."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional


def same_group_pairs(
    label: Float[Tensor, " num_rows"], group: Int64[Tensor, " num_rows"]
) -> tuple[Int64[Tensor, " num_pairs"], Int64[Tensor, " num_pairs"]]:
    """Return the rows (clicked, not clicked) of every such pair inside a group."""
    clicked, left = (label > 0.5).nonzero()[:, 0], (label <= 0.5).nonzero()[:, 0]
    first, second = (group[clicked][:, None] == group[left]).nonzero(as_tuple=True)
    return clicked[first], left[second]


def pair_loss(
    logit: Float[Tensor, " num_rows"],
    label: Float[Tensor, " num_rows"],
    group: Int64[Tensor, " num_rows"],
) -> Float[Tensor, ""]:
    r"""Penalise impressions of a group that were not clicked and have the higher logit.

    .. math::
        \frac{1}{B} \sum_g \frac{n_g}{p_g (n_g - p_g)} \sum_{i, j \in g: y_i = 1, y_j = 0}
        \ln\left(1 + e^{s_j - s_i}\right)

    With the step function for the logarithm this is (1 - GAUC) times the share of rows in groups of both
    classes, where GAUC weighs groups by impressions. A pair's term is BPR's (Rendle et al., UAI 2009,
    section 4.1); the sum of a loss by row and one by pair is from Sculley, "Combined Regression and Ranking"
    (KDD 2010).

    Args:
        logit: s.
        label: y, 1 for a click.
        group: rows are compared inside a group, such as a user.

    Returns:
        Zero where no group has both classes.

    """
    clicked, left = same_group_pairs(label, group)
    if len(clicked) == 0:
        return logit.sum() * 0.0
    _, number = group.unique(return_inverse=True)
    rows = torch.bincount(number).to(logit.dtype)
    clicks = torch.bincount(number, weights=label).to(logit.dtype)
    weight = (rows / (clicks * (rows - clicks)).clamp(min=1.0))[number[clicked]]
    return (weight * functional.softplus(logit[left] - logit[clicked])).sum() / len(label)
