"""Cross entropy of a softmax over many classes where a row has several true ones; whole, or over a sample.

Axis letters: M rows, T true (row, class) pairs, V classes, S sampled classes, C channels.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from samplers import keyed_bits, keyed_uniform

# scores that are held at a time: on a CPU they should stay in its caches
_SCORES_AT_A_TIME = {"cpu": 1 << 22}
_SCORES_ELSEWHERE = 1 << 27


def multi_label_loss(
    x: Float[Tensor, "num_rows channels"],
    weight: Float[Tensor, "num_classes channels"],
    bias: Float[Tensor, " num_classes"],
    row: Int64[Tensor, " num_true"],
    true_class: Int64[Tensor, " num_true"],
) -> Float[Tensor, ""]:
    r"""Return :math:`-\sum_{(r, v)\ \text{true}} \log \operatorname{softmax}(W x_r + b)_v`.

    That is the cross entropy of the softmax against each row's binary vector of true classes. Scores are made
    for some rows at a time and their gradient at once, so that (M, V) numbers are never held, and no score
    is computed twice. Under ``torch.autocast`` the products are taken in its type, the softmax in float32.
    It can be differentiated once.

    Args:
        x: what the scores are linear maps of.
        weight: one row a class.
        bias: one number a class.
        row: rows of ``x`` in rising order, one for each true class of the row.
        true_class: the class; none is there twice in a row.

    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    apply: Any = _Softmax.apply
    loss: Tensor = apply(x, weight, bias, row, true_class, dtype, torch.is_grad_enabled())
    return loss


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MC: Tensor,
        weight_VC: Tensor,
        bias: Tensor,
        row: Tensor,
        true_class: Tensor,
        dtype: torch.dtype,
        differentiable: bool,
    ) -> Tensor:
        num_rows = len(x_MC)
        step = max(_SCORES_AT_A_TIME.get(x_MC.device.type, _SCORES_ELSEWHERE) // len(weight_VC), 1)
        first = torch.arange(0, num_rows + step, step, device=row.device)
        bounds = torch.searchsorted(row, first).tolist()
        num_true = torch.bincount(row, minlength=num_rows).to(weight_VC.dtype)[:, None]
        low_x, low_weight = x_MC.to(dtype), weight_VC.to(dtype)
        loss = weight_VC.new_zeros(())
        gradients = torch.zeros_like(x_MC), torch.zeros_like(weight_VC), torch.zeros_like(bias)
        with torch.autocast(x_MC.device.type, enabled=False):
            for number, start in enumerate(range(0, num_rows, step)):
                part = slice(start, start + step)
                true = slice(bounds[number], bounds[number + 1])
                place = row[true] - start, true_class[true]
                score_MV = (low_x[part] @ low_weight.T).to(bias.dtype).add_(bias)
                loss -= score_MV[place].sum()
                largest = score_MV.amax(dim=1, keepdim=True)
                share_MV = score_MV.sub_(largest).exp_()
                total = share_MV.sum(dim=1, keepdim=True)
                loss += (num_true[part] * (largest + total.log())).sum()
                if differentiable:
                    share_MV *= num_true[part] / total
                    share_MV[place] -= 1.0
                    _accumulate(gradients, part, share_MV, low_x, low_weight)
        if differentiable:
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * saved for saved in ctx.saved_tensors), None, None, None, None)


def _accumulate(
    gradients: tuple[Tensor, Tensor, Tensor], part: slice, of_score: Tensor, x: Tensor, weight: Tensor
) -> None:
    of_x, of_weight, of_bias = gradients
    of_bias += of_score.sum(dim=0)
    of_score = of_score.to(x.dtype)
    of_x[part] = of_score @ weight
    if x.dtype == of_weight.dtype:
        of_weight.addmm_(of_score.T, x[part])  # without a product of the table's size
    else:
        of_weight += of_score.T @ x[part]


def sampled_multi_label_loss(
    x: Float[Tensor, "num_rows channels"],
    weight: Float[Tensor, "num_classes channels"],
    bias: Float[Tensor, " num_classes"],
    row: Int64[Tensor, " num_true"],
    true_class: Int64[Tensor, " num_true"],
    sampled: Int64[Tensor, " num_sampled"],
    log_probability: Float[Tensor, " num_sampled"],
) -> Float[Tensor, ""]:
    r"""Estimate :func:`multi_label_loss` from a sample of the classes that a row does not have.

    The sum under the softmax's fraction line is estimated by importance sampling (Bengio and Senecal, IEEE
    Trans. Neural Networks 2008; Jean et al., ACL 2015):

    .. math:: \hat Z_r = \sum_{v\ \text{true}} e^{s_{rv}}
              + \sum_{v\ \text{sampled, not true}} e^{s_{rv} - \log \pi_v}

    with the probability :math:`\pi_v` that class v is in the sample. It has the right expectation; the loss,
    its logarithm, does not quite, and less so the larger the sample is. With all classes sampled, both are
    exact. True classes always count with their own score, so that a class that is true but not sampled is
    not pushed up for nothing. All rows share the sample.

    Args:
        x: what the scores are linear maps of.
        weight: one row a class.
        bias: one number a class.
        row: rows of ``x`` in rising order, one for each true class; a row without any counts nothing.
        true_class: the class; none is there twice in a row.
        sampled: distinct classes, in rising order, one at least.
        log_probability: logarithm of the probability that each is sampled.

    """
    score_MS = functional.linear(x, functional.embedding(sampled, weight), bias[sampled] - log_probability)
    score_MS = score_MS.to(bias.dtype)
    place = torch.searchsorted(sampled, true_class).clamp(max=len(sampled) - 1)
    is_hit = sampled[place] == true_class
    hits = row[is_hit], place[is_hit]
    # no infinity: where all samples are true, its gradient would not be a number
    left_out = score_MS.new_full((), torch.finfo(score_MS.dtype).min)
    rest = score_MS.index_put(hits, left_out).logsumexp(dim=1)
    true_score = (functional.embedding(row, x) * functional.embedding(true_class, weight)).sum(dim=1)
    true_score = true_score + bias[true_class]
    top = rest.detach().scatter_reduce(0, row, true_score.detach(), "amax")
    total = (rest - top).exp().index_add(0, row, (true_score - top[row]).exp())
    log_total = top + total.log()
    return log_total[row].sum() - true_score.sum()


class ClassSampler:
    r"""Draw distinct classes, each with a probability of its own that is known.

    Class v is in a sample with :math:`\pi_v = \min(1, c w_v)`, c such that they sum to the sample's size:
    frequent classes are always there. Drawn by systematic sampling (Madow, Annals of Math. Statistics 1949):
    classes stand in a shuffled order on a line, each as long as its probability, and every point at a
    distance of one from the next, from a random start on, takes the class that it falls on.

    Args:
        weight: of each class, above zero; a power of its frequency, for example.
        num_sampled: classes of a sample; where there are no more, a sample holds all.
        random_seed: keys the order and the draws.

    """

    def __init__(
        self, weight: Float[Tensor, " num_classes"], num_sampled: int, *, random_seed: int = 0
    ) -> None:
        if num_sampled < 1 or not bool((weight > 0).all()):
            raise ValueError(
                f"a sample has one class at least and weights lie above 0, got num_sampled={num_sampled} and "
                f"weights from {float(weight.min()) if len(weight) else None}"
            )
        self.num_sampled, self.random_seed = min(num_sampled, len(weight)), random_seed
        self.probability = _inclusion_probability(weight.double(), self.num_sampled)
        shuffled = keyed_bits(random_seed, "class order", torch.arange(len(weight), device=weight.device))
        self._order = shuffled.argsort(stable=True)
        self._end = self.probability[self._order].cumsum(0)

    def sample(self, *keys: int | str) -> Int64[Tensor, " num_sampled"]:
        """Return distinct classes in rising order: the same for the same keys."""
        start = keyed_uniform(self.random_seed, "sampled classes", *keys).to(self._end.device)
        points = start + torch.arange(self.num_sampled, device=self._end.device)
        place = torch.searchsorted(self._end, points, right=True).clamp(max=len(self._end) - 1)
        return self._order[place].unique()


def _inclusion_probability(weight: Tensor, num_sampled: int) -> Tensor:
    """min(1, c * weight) with the sum ``num_sampled``: the heaviest are certain until none exceeds 1."""
    if num_sampled == len(weight):
        return torch.ones_like(weight)
    heaviest = weight.sort(descending=True).values
    left = heaviest.flip(0).cumsum(0).flip(0)[:num_sampled]
    factor = (num_sampled - torch.arange(num_sampled, device=weight.device)) / left
    num_certain = int((factor * heaviest[:num_sampled] <= 1).long().argmax())
    return (factor[num_certain] * weight).clamp(max=1.0)
