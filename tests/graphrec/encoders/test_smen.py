"""SMEN against its formulas in plain Python; lives without events; every weight is reached."""

import math

import pytest
import torch

from graphrec.encoders.bag_of_interests import InterestCounter, PeriodBags
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.smen import SMEN, ContrastiveHead, MultiAnchor, RaggedGRU
from graphrec.encoders.smen_encoder import represent
from samplers import EventHistory

MONTH = 31 * 86_400
START = 30 * 365 * 86_400
ITEMS = ItemInterests(
    interest=torch.arange(5)[:, None], weight=torch.ones(5, 1), num_interests=5, fit_until=0
)


def bag_of(lives, *, scales=("month", "year")):
    """Lives are lists of (item, month)."""
    events = torch.tensor([event for life in lives for event in life], dtype=torch.int64).view(-1, 2)
    ptr = torch.tensor([0, *(len(life) for life in lives)]).cumsum(0)
    history = EventHistory(ptr, events[:, 0], START + events[:, 1] * MONTH, torch.arange(len(events)))
    counter = InterestCounter(items=ITEMS, clock=LocalClock.of_zone("+00:00"), scales=scales)
    return counter.count(history, torch.full((len(lives),), START + 14 * MONTH + 1))


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def matvec(matrix, x):
    return [dot(row, x) for row in matrix]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_anchors(module, bag):
    """Equations (5) and (6) for one period: {interest: b_j}."""
    embedding, anchors = module.interest.weight.tolist(), module.anchor.tolist()
    alpha = {}
    for j in bag:
        key = matvec(module.key.weight.tolist(), [max(value, 0.0) for value in embedding[j]])
        scores = [math.exp(dot(anchor, key)) for anchor in anchors]
        alpha[j] = [score / sum(scores) for score in scores]
    width = len(embedding[0])
    return [
        [max(sum(alpha[j][i] * b * embedding[j][c] for j, b in bag.items()), 0.0) + 0.0 for c in range(width)]
        for i in range(len(anchors))
    ]


def slow_gru(gru, inputs):
    """The last state of a GRU as Cho et al. define it, reset and update gate first."""
    layers = (gru.input, gru.state)
    weights = [layer.weight.tolist() for layer in layers] + [layer.bias.tolist() for layer in layers]
    state = [0.0] * gru.channels
    for x in inputs:
        ours, theirs = (
            [value + bias for value, bias in zip(matvec(w, v), b, strict=True)]
            for w, v, b in ((weights[0], x, weights[2]), (weights[1], state, weights[3]))
        )
        size = len(state)
        for c, before in enumerate(list(state)):
            reset, update = sigmoid(ours[c] + theirs[c]), sigmoid(ours[size + c] + theirs[size + c])
            new = math.tanh(ours[2 * size + c] + reset * theirs[2 * size + c])
            state[c] = (1 - update) * new + update * before
    return state


def test_anchors_are_those_of_the_formulas():
    torch.manual_seed(0)
    module = MultiAnchor(5, num_anchors=3, channels=4)
    # period 0: interests 1 and 4; period 1: none; period 2: interest 1; period 3: none
    count = torch.tensor([2.0, 1.0, 5.0])
    bags = PeriodBags(
        torch.tensor([0, 3, 4]), torch.arange(4), torch.tensor([0, 0, 2]), torch.tensor([1, 4, 1]), count
    )
    found = module(bags)
    b = [math.log(3), math.log(2), math.log(6)]
    for row, bag in ((0, {1: b[0], 4: b[1]}), (1, {}), (2, {1: b[2]}), (3, {})):
        torch.testing.assert_close(found[row], torch.tensor(slow_anchors(module, bag)))
    assert found[0].max() > 0
    shares = module.shares(module.interest.weight)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))


def test_the_gru_reads_every_ragged_sequence_alone():
    torch.manual_seed(0)
    module = RaggedGRU(3)
    ptr = torch.tensor([0, 2, 2, 3, 7])
    x = torch.randn(7, 2, 3)
    found = module(x, ptr)
    for query in range(4):
        for anchor in range(2):
            inputs = x[ptr[query] : ptr[query + 1], anchor].tolist()
            torch.testing.assert_close(found[query, anchor], torch.tensor(slow_gru(module, inputs)))
    assert torch.equal(found[1], torch.zeros(2, 3))


def test_the_gru_is_torchs():
    torch.manual_seed(0)
    module, theirs = RaggedGRU(4), torch.nn.GRU(4, 4)
    theirs.weight_ih_l0.data, theirs.weight_hh_l0.data = module.input.weight.data, module.state.weight.data
    theirs.bias_ih_l0.data, theirs.bias_hh_l0.data = module.input.bias.data, module.state.bias.data
    x = torch.randn(6, 1, 4)
    torch.testing.assert_close(module(x, torch.tensor([0, 6]))[0], theirs(x)[1][0])


def test_scales_are_mixed_by_the_switch():
    torch.manual_seed(0)
    smen = SMEN(5, num_anchors=2, channels=3)
    lives = [[(0, 1), (3, 1), (3, 1), (2, 4)], [], [(4, 12)]]
    bag = bag_of(lives)
    found = smen.anchor_vectors(bag)
    one, two = math.log(2), math.log(3)
    months = {0: [{0: one, 3: two}, {}, {}, {2: one}], 2: [{4: one}]}
    # from January and December 2000 to the query in March 2001: what follows is empty
    num_months = {0: 15, 2: 4}
    years = {0: {0: one, 3: two, 2: one}, 2: {4: one}}
    assert bag.periods(0).ptr.diff().tolist() == [15, 0, 4]
    assert bag.periods(1).ptr.diff().tolist() == [2, 0, 2]
    weight, bias = smen.switch.weight.tolist(), smen.switch.bias.tolist()
    for query in (0, 2):
        fine = months[query] + [{}] * (num_months[query] - len(months[query]))
        coarse = [years[query], {}]
        steps = [[slow_anchors(smen.anchors, b) for b in periods] for periods in (fine, coarse)]
        for anchor in range(2):
            r = [slow_gru(smen.over_time, [step[anchor] for step in scale]) for scale in steps]
            s = [sigmoid(value + b) for value, b in zip(matvec(weight, r[0] + r[1]), bias, strict=True)]
            expected = [g * a + (1 - g) * b for g, a, b in zip(s, *r, strict=True)]
            torch.testing.assert_close(found[query, anchor], torch.tensor(expected))
    assert torch.equal(found[1], torch.zeros(2, 3))
    assert smen(bag).shape == (3, smen.out_channels) == (3, 6)
    # one scale: no switch
    single = SMEN(5, num_anchors=2, channels=3, num_scales=1)
    single.load_state_dict({k: v for k, v in smen.state_dict().items() if "switch" not in k})
    monthly = single.anchor_vectors(bag_of(lives, scales=("month",)))
    torch.testing.assert_close(monthly, smen.over_time(smen.anchors(bag.periods(0)), bag.periods(0).ptr))


def test_the_head_is_that_of_the_formulas():
    torch.manual_seed(0)
    head = ContrastiveHead(2, 3)
    r = torch.randn(1, 2, 3)
    own, mix, output = head.own.tolist(), head.mix.weight.tolist(), head.output.weight.tolist()
    v = [[max(value, 0.0) for value in matvec(own[i], r[0, i].tolist())] for i in range(2)]
    mixed = [[sum(mix[i][k] * v[k][c] for k in range(2)) for c in range(3)] for i in range(2)]
    inner = [max(v[i][c] + mixed[i][c], 0.0) for i in range(2) for c in range(3)]
    torch.testing.assert_close(head(r)[0], torch.tensor(matvec(output, inner)))


def test_lives_do_not_depend_on_one_another_and_empty_ones_are_zero():
    torch.manual_seed(0)
    smen = SMEN(5, num_anchors=2, channels=4)
    lives = [[(0, 0), (1, 3)], [], [(2, 2), (2, 2), (3, 13)], [(4, 9)]]
    together = smen(bag_of(lives))
    for query, life in enumerate(lives):
        torch.testing.assert_close(smen(bag_of([life]))[0], together[query])
    order = torch.tensor([2, 0, 3, 1, 2])
    torch.testing.assert_close(smen(bag_of(lives).take(order)), together[order])
    assert torch.equal(smen(bag_of([[], []])), torch.zeros(2, 8))
    assert smen(bag_of(lives).take(order[:0])).shape == (0, 8)


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    smen, head = SMEN(5, num_anchors=2, channels=4), ContrastiveHead(2, 4)
    bag = bag_of([[(0, 0), (1, 3)], [(2, 2), (3, 13), (4, 13)]])
    (head(smen.anchor_vectors(bag)) ** 2).sum().backward()
    for module in (smen, head):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_wrong_sizes_are_refused():
    smen = SMEN(4, num_anchors=2, channels=4)
    with pytest.raises(ValueError, match=r"the bags have .*'num_interests': 5.* reads .*'num_interests': 4"):
        smen(bag_of([[(0, 0)]]))
    with pytest.raises(ValueError, match=r"'num_scales': 1"):
        SMEN(5, num_anchors=1, channels=2)(bag_of([[(0, 0)]], scales=("year",)))
    with pytest.raises(ValueError, match="num_scales must be 1 or 2, got 3"):
        SMEN(5, num_scales=3)
    for name in ("num_anchors", "channels", "num_scales"):
        for value in (0, True):
            with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value}"):
                SMEN(5, **{name: value})


def test_lives_of_many_periods_are_encoded_in_pieces(monkeypatch):
    torch.manual_seed(0)
    smen = SMEN(5, num_anchors=2, channels=4)
    # lives of 2 to 15 months and 1 or 2 years, and two without an event
    lives = [[(number % 5, number % 14)] for number in range(40)] + [[], []]
    bag = bag_of(lives)
    count = bag.num_periods(0) + bag.num_periods(1)
    assert count.tolist() == (bag.periods(0).ptr.diff() + bag.periods(1).ptr.diff()).tolist()
    whole = smen(bag)
    seen, forward = [], SMEN.forward

    def record(self, part):
        seen.append(part)
        return forward(self, part)

    monkeypatch.setattr(SMEN, "forward", record)
    found = represent(smen, bag, max_periods=20)
    torch.testing.assert_close(found, whole)
    pieces = [(len(part), int((part.num_periods(0) + part.num_periods(1)).sum())) for part in seen]
    assert max(periods for _, periods in pieces) <= 20
    assert sum(queries for queries, _ in pieces) == len(lives)
    assert len(pieces) < 40  # short lives share a piece
    # no piece has room for the first life of the next one
    longest = sorted(count.tolist())
    for number in range(len(pieces) - 1):
        done = sum(queries for queries, _ in pieces[: number + 1])
        assert pieces[number][1] + longest[done] > 20
    seen.clear()
    torch.testing.assert_close(represent(smen, bag, max_periods=3), whole)
    assert {len(part) for part in seen if part.num_periods(0).max() > 2} == {1}  # a long life is alone
    seen.clear()
    represent(smen, bag, batch_size=5)
    assert [len(part) for part in seen] == [5] * 8 + [2]
    seen.clear()
    assert represent(smen, bag.take(torch.arange(0))).shape == (0, 8)
    for options in ({"batch_size": 0}, {"max_periods": 0}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1, got 0"):
            represent(smen, bag, **options)
