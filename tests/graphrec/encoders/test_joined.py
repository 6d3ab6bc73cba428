"""Several encoders as one: against the formula, one encoder alone, names, what is refused."""

import pytest
import torch

from graphrec.encoders.joined import JoinedEncoders
from tests.graphrec.encoders.test_contract import (
    NOW,
    NUM_USERS,
    dupn,
    events_of,
    prepared,
    queries,
    smen,
    vectors,
)
from tests.graphrec.encoders.toy_heatmaps import graph_of


def two(how, graph, out_channels=4):
    torch.manual_seed(0)
    encoders = {"sequence": dupn(graph, "user"), "life": smen(graph, "user")}
    return encoders, JoinedEncoders(encoders, out_channels=out_channels, how=how).eval()


def test_each_encoder_is_given_what_it_reads_alone():
    graph = graph_of(events_of(), num_users=NUM_USERS)
    encoders, joined = two("concatenated", graph)
    node, time = queries(graph, "user")
    assert set(joined.requests) == {"sequence/behaviors", "life/life"}
    alone = [vectors(encoder.eval(), graph, "user", node, time) for encoder in encoders.values()]
    wanted = joined.projection(torch.cat(alone, dim=1))
    torch.testing.assert_close(vectors(joined, graph, "user", node, time), wanted)


def test_the_gate_is_its_formula_and_starts_even():
    graph = graph_of(events_of(), num_users=NUM_USERS)
    encoders, joined = two("gated", graph)
    node, time = queries(graph, "user")
    ready = prepared(joined, graph, "user", node, time)
    assert torch.equal(joined.gate_weights(ready), torch.full((len(node), 2), 0.5))
    with torch.no_grad():
        joined.gate.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
        alone = [vectors(encoder.eval(), graph, "user", node, time) for encoder in encoders.values()]
        mapped = [joined.projections[name](one) for name, one in zip(encoders, alone, strict=True)]
        for n in range(len(node)):
            logits = torch.stack([joined.gate[k] @ mapped[k][n] for k in range(2)])
            weight = logits.exp() / logits.exp().sum()
            torch.testing.assert_close(joined.gate_weights(ready)[n], weight)
            torch.testing.assert_close(joined(ready)[n], weight[0] * mapped[0][n] + weight[1] * mapped[1][n])


def test_frozen_encoders_stay_in_evaluation_and_fits_are_checked():
    graph = graph_of(events_of(), num_users=NUM_USERS)
    encoders, joined = two("gated", graph)
    encoders["life"].requires_grad_(False)
    joined.train()
    assert encoders["sequence"].training
    assert not encoders["life"].training
    joined.check_before(NOW)
    with pytest.raises(ValueError, match="fitted on data until"):
        joined.check_before(NOW - 1)


def test_what_cannot_be_joined_is_refused():
    graph = graph_of(events_of(), num_users=NUM_USERS)
    encoders, joined = two("concatenated", graph)
    for names in ([], ["a/b"], ["a.b"], [""]):
        with pytest.raises(ValueError, match="each a name without a slash or a dot"):
            JoinedEncoders(dict.fromkeys(names, encoders["life"]), out_channels=4)
    for name in ("keys", "training", "_modules"):
        with pytest.raises(ValueError, match=rf"of which torch uses \['{name}'\]"):
            JoinedEncoders({name: encoders["life"]}, out_channels=4)
    make = JoinedEncoders.__init__.__wrapped__  # types are checked under pytest alone: a caller's are not
    with pytest.raises(TypeError, match="part 'linear' is a Linear, it must be a NodeEncoder"):
        make(object.__new__(JoinedEncoders), {**encoders, "linear": torch.nn.Linear(2, 3)}, out_channels=4)
    with pytest.raises(ValueError, match="each a name"):
        make(object.__new__(JoinedEncoders), {3: encoders["life"]}, out_channels=4)
    with pytest.raises(ValueError, match="out_channels must be a whole number of at least 1, got 0"):
        JoinedEncoders(encoders, out_channels=0)
    with pytest.raises(ValueError, match="how must be"):
        JoinedEncoders.__init__.__wrapped__(two("gated", graph)[1], encoders, out_channels=4, how="added")
    with pytest.raises(ValueError, match="there is no gate"):
        joined.gate_weights(prepared(joined, graph, "user", *queries(graph, "user")))
