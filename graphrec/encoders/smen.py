"""SMEN: from bags of interests over months and years to a vector for each of several anchors (LURM).

Axis letters: D interests, M anchors, H channels, P periods of all queries together, Q queries.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.bag_of_interests import BagOfInterests, PeriodBags
from graphrec.encoders.fit_until import FittedUntil
from graphrec.nn.precision import at_least_float32


class MultiAnchor(nn.Module):
    r"""Share out each interest over anchors, and sum up what each anchor gets of a bag.

    .. math::
        k_j = W^b \operatorname{ReLU}(W^e_j), \qquad
        \alpha_{ij} = \frac{\exp(W^a_i \cdot k_j)}{\sum_{i'} \exp(W^a_{i'} \cdot k_j)}, \qquad
        r_i = \operatorname{ReLU}\Big(\sum_j \alpha_{ij} b_j W^e_j\Big)

    Equations (5) and (6) of LURM (Yang et al., 2021). The shares depend on the interest alone: they are
    computed once for the interests that a batch holds, not for each user or period.

    Args:
        num_interests: D.
        num_anchors: M.
        channels: H.

    """

    def __init__(self, num_interests: int, *, num_anchors: int = 10, channels: int = 128) -> None:
        super().__init__()
        self.interest = nn.Embedding(num_interests, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        # with keys of variance about 1/6 the scores of the anchors then have variance 1: they start out apart
        self.anchor = nn.Parameter(torch.randn(num_anchors, channels) * (6 / channels) ** 0.5)

    @property
    def num_anchors(self) -> int:
        """M."""
        return len(self.anchor)

    def shares(self, interest: Float[Tensor, "num channels"]) -> Float[Tensor, "num num_anchors"]:
        """Return how each interest is shared out over the anchors, from its embedding; rows add up to 1."""
        return at_least_float32(self.key(torch.relu(interest)) @ self.anchor.T).softmax(dim=1)

    def forward(self, bags: PeriodBags) -> Float[Tensor, "num_periods num_anchors channels"]:
        """Return what each anchor gets of each period, 0 of an empty one."""
        if not len(bags.interest):
            return self.anchor.new_zeros(bags.num_periods, *self.anchor.shape)
        present, place = bags.interest.unique(return_inverse=True)
        vector_DH = self.interest(present)
        alpha_MD = self.shares(vector_DH).T
        # one bag for each anchor and period, anchors one behind the other: no entries x anchors x H values
        start = torch.searchsorted(bags.row, torch.arange(bags.num_periods, device=bags.row.device))
        offset = len(place) * torch.arange(self.num_anchors, device=bags.row.device)
        summed = functional.embedding_bag(
            place.repeat(self.num_anchors),
            vector_DH,
            (offset[:, None] + start).flatten(),
            mode="sum",
            per_sample_weights=(alpha_MD[:, place] * bags.value).flatten(),
        )
        return torch.relu(summed).view(self.num_anchors, bags.num_periods, -1).transpose(0, 1)


class RaggedGRU(nn.Module):
    r"""A GRU over the periods of each query, one sequence an anchor, all with the same weights.

    .. math::
        [\rho, z, n]_t = [W x_t + c] \text{ and } [U h_{t-1} + d] \text{ in three parts each}, \quad
        h_t = (1 - z) \odot \tanh(n^W + \rho \odot n^U) + z \odot h_{t-1}

    with :math:`\rho` and z the sigmoids of their parts' sums: Cho et al., EMNLP 2014, in the form of torch's
    ``GRU``, which is not used since it takes no part in ``torch.func`` (temporal MAML).

    Args:
        channels: of input and state.

    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.input, self.state = nn.Linear(channels, 3 * channels), nn.Linear(channels, 3 * channels)

    def forward(
        self, x: Float[Tensor, "num_periods num_anchors channels"], ptr: Int64[Tensor, " num_queries_and_one"]
    ) -> Float[Tensor, "num_queries num_anchors channels"]:
        """Return the state after the last of each query's rows ``ptr[i]:ptr[i + 1]``; 0 where it has none."""
        num_queries, length = len(ptr) - 1, ptr.diff()
        # queries with many periods first: those that have a step t are then the first ones at every step
        order = length.argsort(descending=True, stable=True)
        rank = order.argsort()
        query = torch.arange(num_queries, device=ptr.device).repeat_interleave(length)
        step = torch.arange(len(query), device=ptr.device) - ptr[query]
        place = (step * num_queries + rank[query]).argsort()
        state = x.new_zeros(num_queries, x.shape[1], self.channels)
        done: list[Tensor] = []  # states of queries that have ended, the longest queries last
        for x_t in self.input(x[place]).split(torch.bincount(step).tolist()):
            done.append(state[len(x_t) :])
            state = self._step(x_t, state[: len(x_t)])
        return torch.cat([state, *reversed(done)])[rank]

    def _step(self, x: Tensor, state: Tensor) -> Tensor:
        of_x, of_state = x.chunk(3, dim=-1), self.state(state).chunk(3, dim=-1)
        reset = torch.sigmoid(of_x[0] + of_state[0])
        update = torch.sigmoid(of_x[1] + of_state[1])
        new = torch.tanh(of_x[2] + reset * of_state[2])
        return new + update * (state - new)


class SMEN(FittedUntil):
    r"""Self-supervised multi-anchor encoder network: bags of interests to ``num_anchors * channels`` numbers.

    Every scale (months, years) goes through the same anchors and the same GRU; then, for each anchor,

    .. math:: \tilde r_i = s_i \odot \hat r_i + (1 - s_i) \odot \hat r'_i, \qquad
              s_i = \sigma(W^s [\hat r_i, \hat r'_i] + c)

    Equation (7) of LURM (Yang et al., 2021). Our reading: :math:`s_i` has a value for each channel, as the
    Hadamard product asks, and anchors share :math:`W^s`, as they share the GRU. With one scale there is no
    such switch. A query without an event has the vector 0 in every scale.

    Args:
        num_interests: D.
        num_anchors: M (paper: 10; the ablation: 1).
        channels: H (paper: 128; the ablation: 1,280).
        num_scales: 1 or 2, in the order of the bags' scales.

    Raises:
        ValueError: a size is no whole number above 0, or ``num_scales`` is above 2.

    """

    noun: ClassVar[str] = "user representation"

    def __init__(
        self, num_interests: int, *, num_anchors: int = 10, channels: int = 128, num_scales: int = 2
    ) -> None:
        super().__init__()
        check_whole_number("num_interests", num_interests, 1)
        check_whole_number("num_anchors", num_anchors, 1)
        check_whole_number("channels", channels, 1)
        check_whole_number("num_scales", num_scales, 1)
        if num_scales > 2:
            raise ValueError(f"num_scales must be 1 or 2, got {num_scales}")
        self.anchors = MultiAnchor(num_interests, num_anchors=num_anchors, channels=channels)
        self.over_time = RaggedGRU(channels)
        self.switch = nn.Linear(2 * channels, channels) if num_scales == 2 else None
        self.out_channels = num_anchors * channels
        self.options = {
            "num_interests": num_interests,
            "num_anchors": num_anchors,
            "channels": channels,
            "num_scales": num_scales,
        }

    def check(self, bag: BagOfInterests) -> None:
        """Raise ``ValueError`` unless a bag has the interests and the number of scales of this model."""
        found = {"num_interests": bag.num_interests, "num_scales": len(bag.scales)}
        wanted: dict[str, Any] = {name: self.options[name] for name in found}
        if found != wanted:
            raise ValueError(
                f"the bags have {found}, the model reads {wanted}: count with those it was made for"
            )

    def anchor_vectors(self, bag: BagOfInterests) -> Float[Tensor, "num_queries num_anchors channels"]:
        """Return the vector of each anchor.

        Raises:
            ValueError: the bags are of other interests or scales.

        """
        self.check(bag)
        found = []
        for scale in range(len(bag.scales)):
            bags = bag.periods(scale)
            found.append(self.over_time(self.anchors(bags), bags.ptr))
        if self.switch is None:
            return found[0]
        share = torch.sigmoid(self.switch(torch.cat(found, dim=-1)))
        return share * found[0] + (1 - share) * found[1]

    def forward(self, bag: BagOfInterests) -> Float[Tensor, "num_queries out_channels"]:
        """Return the anchors' vectors side by side.

        Memory grows with the periods of all queries together; ``smen_encoder.represent`` bounds them.

        Raises:
            ValueError: the bags are of other interests or scales.

        """
        return self.anchor_vectors(bag).flatten(1)


class ContrastiveHead(nn.Module):
    r"""From anchors' vectors to the one vector that training compares; it is thrown away afterwards.

    .. math::
        v = \operatorname{ReLU}([W_1 r_1, \dots, W_M r_M]), \qquad
        h(v) = W' \operatorname{ReLU}(v + \operatorname{mix}(v))

    Equations (8) and (9) of LURM: mix reshapes v to M x H, multiplies by an M x M matrix from the left, and
    reshapes back.

    Args:
        num_anchors: M.
        channels: H.

    """

    def __init__(self, num_anchors: int, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        weight = torch.empty(num_anchors, channels, channels).uniform_(-bound, bound)
        self.own = nn.Parameter(weight)  # for each anchor, from its channels (the last axis) to new ones
        self.mix = nn.Linear(num_anchors, num_anchors, bias=False)
        self.output = nn.Linear(num_anchors * channels, num_anchors * channels, bias=False)

    def forward(
        self, anchor: Float[Tensor, "num_queries num_anchors channels"]
    ) -> Float[Tensor, "num_queries out_channels"]:
        """Return h(v)."""
        v_QMH = torch.relu(torch.einsum("qmh,mgh->qmg", anchor, self.own))
        mixed = self.mix(v_QMH.transpose(1, 2)).transpose(1, 2)
        return self.output(torch.relu(v_QMH + mixed).flatten(1))
