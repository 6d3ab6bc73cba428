"""DUPN: codes of a history by hand, attention by the formula, variants, no leak, gradients."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from graph_builders import (
    EventSchema,
    IdMap,
    Relation,
    build_behavior_graph,
    build_feature_table,
    fit_fields,
    read_events,
)
from graphrec.encoders.behavior_sequences import (
    HISTORY,
    BehaviorSequences,
    SequenceSizes,
    SequenceTokenizer,
    behavior_request,
    concatenate_sequences,
    item_fingerprint,
)
from graphrec.encoders.dupn import DUPN, DUPNEncoder
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentences import FIRST, MISSING, RARE
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_vocabularies

CLICK, BUY = Relation("shop", "click"), Relation("shop", "buy")
TYPES = (CLICK.reverse_edge_type, BUY.reverse_edge_type)
NOON = 1_700_000_000 // 86_400 * 86_400 + 12 * 3600
ROWS = [  # user, item, seconds after noon, behaviour, tab
    ("ann", "x", 0, "click", "home"),
    ("ann", "y", 60, "buy", None),
    ("ann", "x", 3 * 3600, "click", "search"),
    ("bob", "z", 7200, "click", "home"),
]


def toy_graph(rows=ROWS):
    columns = dict(
        zip(("user_id", "item_id", "time", "behavior", "tab"), zip(*rows, strict=True), strict=True)
    )
    frame = pl.DataFrame({name: list(values) for name, values in columns.items()}).with_columns(
        pl.col("time") + NOON, domain=pl.lit("shop")
    )
    schema = EventSchema(time_bounds=None, behavior="behavior", domain="domain", attributes=("tab",))
    return build_behavior_graph(
        read_events(frame, schema),
        user_table=pl.DataFrame({"user_id": ["ann", "bob", "eve"], "city": ["P", "Q", "P"]}),
        item_table=pl.DataFrame({"item_id": ["x", "y", "z"], "kind": ["k", "l", None]}),
    )


def make_tokenizer(graph, **options):
    profile = AttributeVocabularies(fit_fields(graph.features["user"], names=["city"]))
    given = {
        "item_fields": ("kind",),
        "attributes": ("tab",),
        "num_items": 2,
        "length": 3,
        "profile": profile,
    }
    given |= options
    request = behavior_request(TYPES, given["item_fields"], given["attributes"], given["length"])
    return SequenceTokenizer(
        edge_types=TYPES,
        vocabularies=fit_vocabularies(graph, [request], fit_until=NOON + 10**6, min_count=1),
        time_zone="UTC",
        **given,
    )


def sequences_of(graph, tokenizer, users, times, query_fields=None):
    reader = InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)
    node = graph.ids["user"].rows(pl.Series(users))
    return tokenizer.tokenize(reader.read(node, torch.tensor(times) + NOON, query_fields=query_fields))


def test_codes_by_hand():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    found = sequences_of(graph, tokenizer, ["ann", "bob", "eve", "ann"], [3 * 3600 + 5, 7200, 9, 61])
    assert found.ptr.tolist() == [0, 3, 3, 3, 5]
    kind = tokenizer.vocabularies.code("kind", graph.features["item"]["kind"])
    x, y = (int(graph.ids["item"].rows(pl.Series([item]))[0]) for item in "xy")
    assert found.item.tolist() == [
        [FIRST + x, kind[x]],
        [FIRST + y, kind[y]],
        [FIRST + x, kind[x]],
        [FIRST + x, kind[x]],
        [FIRST + y, kind[y]],
    ]
    click, buy, noon = FIRST, FIRST + 1, FIRST + 12
    # a gap of g seconds has the bucket of the largest 2^(b - 1) up to g
    gaps = [FIRST + int(gap).bit_length() for gap in (10_805, 10_745, 5, 61, 1)]
    assert found.properties[:, 0].tolist() == [click, buy, click, click, buy]
    assert found.properties[:, 1].tolist() == [noon, noon, noon + 3, noon, noon]
    assert found.properties[:, 2].tolist() == gaps
    tabs = found.properties[:, 3].tolist()
    assert tabs[1] == tabs[4] == MISSING
    assert len({tabs[0], tabs[2]} - {MISSING, RARE}) == 2
    assert found.profile[0, 0] == found.profile[2, 0] != found.profile[1, 0]
    assert found.query.shape == (4, 0)


def test_the_last_behaviours_and_items_beyond_the_table():
    graph = toy_graph([*ROWS, ("ann", "z", 3 * 3600 + 1, "click", "home")])
    tokenizer = make_tokenizer(graph, length=2)
    found = sequences_of(graph, tokenizer, ["ann"], [10**5])
    assert found.properties[:, 1].tolist() == [FIRST + 15, FIRST + 15]
    z = int(graph.ids["item"].rows(pl.Series(["z"]))[0])
    assert (z, found.item[1, 0].item()) == (2, RARE)


def test_fields_of_the_query():
    graph = toy_graph()
    scenario = build_feature_table(pl.DataFrame({"scenario": ["a", "b", "a"]}))
    fitted = AttributeVocabularies(fit_fields(scenario, names=["scenario"]))
    tokenizer = make_tokenizer(graph, query_fields=fitted)
    found = sequences_of(graph, tokenizer, ["ann", "bob", "ann"], [9, 9, 9], scenario)
    assert found.query[:, 0].tolist() == fitted.code("scenario", scenario["scenario"]).tolist()
    torch.manual_seed(0)
    vectors = DUPNEncoder(tokenizer, small(tokenizer.sizes)).eval()(found)
    assert torch.allclose(vectors[0], vectors[2])


def small(sizes, **options):
    torch.manual_seed(0)
    given = {"hidden_channels": 5, "user_channels": 3, "query_channels": 2, "attention_channels": (4, 3)}
    return DUPN(sizes, item_channels=3, property_channels=2, **(given | options))


def toy_sequences(lengths=(3, 0, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def codes(rows, *sizes):
        columns = [torch.randint(size, (rows,), generator=generator) for size in sizes]
        return torch.stack(columns, dim=1) if columns else torch.zeros(rows, 0, dtype=torch.int64)

    total = sum(lengths)
    return BehaviorSequences(
        ptr=torch.tensor([0, *lengths]).cumsum(0),
        item=codes(total, 6, 4),
        properties=codes(total, 4, 5),
        profile=codes(len(lengths), 3),
        query=codes(len(lengths)),
    )


SIZES = SequenceSizes(item=(6, 4), properties=(4, 5), profile=(3,))


@pytest.mark.parametrize("properties_in", ["both", "lstm", "attention", "none"])
def test_formula_and_variants(properties_in):
    model = small(SIZES, properties_in=properties_in).double().eval()
    given = toy_sequences()
    out = model(given)
    user = torch.relu(model.user.map(model.user.tables(given.profile)))
    assert out.shape == (3, 8)
    torch.testing.assert_close(out[:, 5:], user)
    assert not out[1, :5].any()
    for n, (first, last) in enumerate(zip(given.ptr[:-1], given.ptr[1:], strict=True)):
        if first == last:
            continue
        item = torch.cat([t(given.item[first:last, i]) for i, t in enumerate(model.item.tables)], 1)
        of_property = item[:, :0]
        if properties_in != "none":
            tables = model.property.tables
            of_property = torch.cat([t(given.properties[first:last, i]) for i, t in enumerate(tables)], 1)
        in_lstm = of_property if properties_in in ("both", "lstm") else of_property[:, :0]
        hidden = model.lstm(item[None], in_lstm[None])[0]
        q = model.no_query
        logits = []
        for t in range(len(hidden)):
            first_layer = model.of_hidden(hidden[t]) + model.of_query_and_user(torch.cat([q, user[n]]))
            if properties_in in ("both", "attention"):
                first_layer = first_layer + model.of_property(of_property[t])
            logits.append(model.attention_rest(first_layer)[0])
        weight = torch.softmax(torch.stack(logits), dim=0)
        torch.testing.assert_close(out[n, :5], weight @ hidden)
        torch.testing.assert_close(model.attention(given)[first:last], weight)
    changed = replace(given, properties=(given.properties + 1) % 4)
    assert torch.equal(model(changed), out) == (properties_in == "none")


def test_the_query_stands_in_the_representation_where_asked():
    sizes = replace(SIZES, query=(4,))
    given = replace(toy_sequences(), query=torch.tensor([[1], [2], [1]]))
    model, without = small(sizes, query_in_output=True).eval(), small(sizes).eval()
    without.load_state_dict(model.state_dict())  # it has no parameters of its own
    out = model(given)
    assert out.shape == (3, model.out_channels) == (3, without.out_channels + 2)
    torch.testing.assert_close(out[:, :-2], without(given))
    torch.testing.assert_close(out[:, -2:], model.query_fields(given.query))
    own = torch.full((3, 2), 3.0)
    assert torch.equal(model(given, own)[:, -2:], own)
    assert torch.equal(small(SIZES, query_in_output=True)(toy_sequences())[0, -2:], torch.zeros(2))


def test_rows_do_not_depend_on_the_batch():
    model = small(SIZES).eval()
    given = toy_sequences((2, 0, 4, 1))
    whole = model(given)
    for n in range(4):
        torch.testing.assert_close(model(given.take(torch.tensor([n])))[0], whole[n])
    order = torch.tensor([2, 0, 3, 1, 2])
    torch.testing.assert_close(model(given.take(order)), whole[order])
    parts = [given.take(torch.tensor([n])) for n in range(4)]
    torch.testing.assert_close(model(concatenate_sequences(parts)), whole)


def test_gradient_reaches_every_parameter_and_a_query_of_ones_own_counts():
    model = small(SIZES)
    given = toy_sequences()
    model(given).square().sum().backward()
    assert not [
        name for name, p in model.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())
    ]
    own = model(given, torch.full((3, 2), 3.0))
    assert not torch.allclose(own[0], model(given)[0])
    plain = small(SequenceSizes(item=(6, 4), properties=(4, 5))).eval()
    given = replace(given, profile=given.profile[:, :0])
    plain(given).square().sum().backward()
    assert plain.user.without_columns.shape == (3,)
    assert plain(given).shape == (3, 8)


def test_an_event_at_or_after_the_query_changes_nothing_and_an_earlier_one_does():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    encoder = DUPNEncoder(tokenizer, small(tokenizer.sizes)).eval()

    def vectors(rows):
        changed = toy_graph(rows)
        return encoder(sequences_of(changed, tokenizer, ["ann", "bob"], [7200, 7200]))

    before = vectors(ROWS)
    assert torch.equal(vectors([*ROWS, ("ann", "y", 7200, "buy", "home")]), before)
    after = vectors([*ROWS, ("ann", "y", 7199, "buy", "home")])
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])


def test_users_differ_by_order_alone():
    orders = {"ann": "xyx", "bob": "yxx"}
    rows = [
        (user, item, 60 * i, "click", "home")
        for user, items in orders.items()
        for i, item in enumerate(items)
    ]
    graph = toy_graph([*rows, ("ann", "z", 10**6, "buy", "home")])
    tokenizer = make_tokenizer(graph, profile=None)
    encoder = DUPNEncoder(tokenizer, small(tokenizer.sizes)).eval()
    ann, bob = encoder(sequences_of(graph, tokenizer, ["ann", "bob"], [999, 999]))
    assert not torch.allclose(ann, bob)


def test_attention_drops_nothing_and_takes_a_query():
    model, given = small(SIZES, dropout=0.5), toy_sequences()
    in_training = model.attention(given)
    assert model.training
    own = torch.full((3, 2), 3.0)
    with_query = model.attention(given, own)
    model.eval()
    assert torch.equal(in_training, model.attention(given))
    assert torch.equal(with_query, model.attention(given, own))
    assert not torch.allclose(with_query, in_training)


def test_a_tokenizer_of_other_words_is_refused_though_sizes_are_the_same():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph, items=item_fingerprint(graph.ids["item"], 2))
    tokenizer.check_items(graph.ids["item"])
    weights = small(tokenizer.sizes).state_dict()
    renamed = IdMap.build(["y", "x", "z"])
    others = {
        "items": replace(tokenizer, items=item_fingerprint(renamed, 2)),
        "time zone": replace(tokenizer, time_zone="Asia/Tokyo"),
        "words": make_tokenizer(
            toy_graph([(*row[:4], "shelf" if row[4] == "home" else row[4]) for row in ROWS]),
            items=tokenizer.items,
        ),
    }
    for name, other in others.items():
        assert other.sizes == tokenizer.sizes, name
        model = small(other.sizes)
        with pytest.raises(ValueError, match="weights are of codes of tokenizer"):
            model.load_state_dict(weights)
        with pytest.raises(ValueError, match="take its own tokenizer"):
            DUPNEncoder(tokenizer, model)
    with pytest.raises(ValueError, match="first 2 items of the graph are not those"):
        tokenizer.check_items(renamed)
    longer = replace(tokenizer, length=9)  # the same codes
    DUPNEncoder(longer, small(tokenizer.sizes)).dupn.load_state_dict(weights)
    by_hand = small(replace(tokenizer.sizes, made_by=None))
    with pytest.raises(KeyError, match="made_by"):
        by_hand.load_state_dict({**weights, "_extra_state": {"fit_until": 3}})
    by_hand.load_state_dict({**weights, "_extra_state": {"fit_until": 3, "made_by": None}})
    assert (by_hand.fit_until, by_hand.sizes.made_by) == (3, None)
    by_hand.fit_until = None
    by_hand.load_state_dict(weights)
    assert by_hand.sizes.made_by == tokenizer.fingerprint


def test_options_that_cannot_be():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    with pytest.raises(ValueError, match="would give codes to users"):
        replace(tokenizer, edge_types=(CLICK.edge_type,))
    with pytest.raises(ValueError, match="give num_items too"):
        replace(tokenizer, num_items=0, items="0" * 16)
    for name, wrong in (("length", 2.5), ("length", 0), ("num_items", -1)):
        given = object.__new__(SequenceTokenizer)
        vars(given).update({**vars(tokenizer), name: wrong})
        with pytest.raises(ValueError, match=f"{name} must be a whole number .* got {wrong}"):
            given.__post_init__()
    make = getattr(DUPN.__init__, "__wrapped__", DUPN.__init__)
    for options in (
        {"hidden_channels": 0},
        {"attention_channels": 7},
        {"attention_channels": (4, 0)},
        {"item_channels": True},
        {"item_channels": (3, -1)},
        {"dropout": 1.0},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            make(object.__new__(DUPN), SIZES, **options)


def test_checkpoints_and_wrong_input(tmp_path):
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    encoder = DUPNEncoder(tokenizer, small(tokenizer.sizes)).eval()
    encoder.dupn.fit_until = NOON
    given = sequences_of(graph, tokenizer, ["ann", "bob"], [7200, 7200])
    torch.save(encoder.state_dict(), tmp_path / "dupn.pt")
    other = DUPNEncoder(tokenizer, small(tokenizer.sizes, dropout=0.5)).eval()
    other.load_state_dict(torch.load(tmp_path / "dupn.pt", weights_only=True))
    assert torch.equal(encoder(given), other(given))
    other.check_before(NOON + 10**6)
    with pytest.raises(ValueError, match="the fields were fitted on data until"):
        other.check_before(NOON + 10**6 - 1)
    with pytest.raises(ValueError, match="the encoder was pre-trained on data until"):
        other.dupn.check_before(NOON - 1)
    with pytest.raises(ValueError, match="take the tokenizer that the model was made for"):
        DUPNEncoder(make_tokenizer(graph, num_items=1), small(tokenizer.sizes))
    with pytest.raises(ValueError, match=r"reads \[2, 2, 1, 0\] columns .* have \[1, 2, 1, 0\]"):
        small(SIZES)(replace(toy_sequences(), item=toy_sequences().item[:, :1]))
    with pytest.raises(ValueError, match="properties_in must be"):
        small(SIZES, properties_in="nowhere")
    with pytest.raises(ValueError, match="item_channels has 1 values for 2 columns"):
        DUPN(SIZES, item_channels=[3])
    with pytest.raises(ValueError, match=r"columns \['shop'\] were not fitted"):
        replace(tokenizer, attributes=("shop",))
    with pytest.raises(ValueError, match="an item field or num_items"):
        replace(tokenizer, item_fields=(), num_items=0)
    with pytest.raises(ValueError, match="no history 'behaviors'"):
        tokenizer.tokenize(InputReader(graph, "user", {}).read(torch.zeros(1).long(), torch.tensor([NOON])))
    assert HISTORY in tokenizer.requests
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate_sequences([])
