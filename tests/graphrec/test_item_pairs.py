"""Pairs of items and what is learned from them: slow checks of every pair, a planted toy, no look ahead."""

import math
from collections import Counter

import polars as pl
import pytest
import torch

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation
from graphrec.encoders.interests import Interests
from graphrec.encoders.item_embedding import ItemEmbedding, embed_items
from graphrec.encoders.item_text import ItemWords, fit_word_vocabulary, item_words, known_items
from graphrec.training.contrastive import ContrastiveConfig
from graphrec.training.item_pairs import (
    ItemPairSampler,
    load_interests,
    load_item_embedding,
    save_interests,
    save_item_embedding,
    train_item_embedding,
)
from tests.graphrec.toy_interests import BUY, DAY, END, NUM_GROUPS, START, gap, shop

FIT_UNTIL = END - 30 * DAY
CONFIG = ContrastiveConfig(epochs=60, batch_size=24, learning_rate=3e-2)


def prepared(graph):
    words = item_words(graph)
    vocabulary = fit_word_vocabulary(words, known_items(graph, FIT_UNTIL), fit_until=FIT_UNTIL, min_count=1)
    return vocabulary, vocabulary.encode(words), ItemPairSampler(graph, [BUY], fit_until=FIT_UNTIL)


def trained(graph, config=CONFIG, **options):
    vocabulary, words, pairs = prepared(graph)
    torch.manual_seed(0)
    model = ItemEmbedding(len(vocabulary), channels=16)
    before = embed_items(model, words)
    curve = train_item_embedding(model, words, pairs, config=config, log_every=20, **options)
    return model, words, before, curve


@pytest.fixture(scope="module")
def done():
    """A trained embedding; nobody changes it."""
    return trained(shop())


def test_an_item_is_the_mean_of_its_words_projected_to_length_one():
    torch.manual_seed(0)
    model = ItemEmbedding(3, channels=2)
    found = model(ItemWords(torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1])))
    table = model.word.weight.tolist()
    x = [(table[0][c] + table[2][c]) / 2 for c in range(2)]
    for block in model.projection:
        (w1, b1), (w2, b2) = (
            (layer.weight.tolist(), layer.bias.tolist()) for layer in (block.first, block.second)
        )
        hidden = [max(sum(w1[r][c] * x[c] for c in range(2)) + b1[r], 0.0) for r in range(2)]
        x = [x[r] + sum(w2[r][c] * hidden[c] for c in range(2)) + b2[r] for r in range(2)]
    expected = [value / math.hypot(*x) for value in x]
    torch.testing.assert_close(found[0], torch.tensor(expected))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_pairs_are_of_one_user_near_in_time_and_before_the_end():
    graph = shop()
    edges = graph.edges(BUY)
    pairs = ItemPairSampler(graph, [BUY], fit_until=FIT_UNTIL, max_days=1)
    assert pairs.users().tolist() == list(range(24))
    drawn = [
        tuple(pair) for epoch in range(30) for pair in pairs.sample(pairs.users(), epoch=epoch).T.tolist()
    ]
    assert len(set(drawn)) > 200
    rows = [row for row in zip(*(column.tolist() for column in edges), strict=True) if row[2] < FIT_UNTIL]
    for user, later, earlier in drawn:
        assert later != earlier
        own = [(item, time) for u, item, time, _ in rows if u == user]
        assert any(
            0 <= s - t < DAY for item, s in own for other, t in own if (item, other) == (later, earlier)
        )


def test_draws_are_uniform_over_events_and_of_several_edge_types():
    rows = [("buy", 0, 0)] + [("view", item, 10) for item in (1, 2, 3)] + [("view", 4, 10 + 5 * DAY)]
    one = pl.DataFrame(rows, schema=["behavior", "item_id", "time"], orient="row")
    events = one.join(pl.DataFrame({"user_id": range(600)}), how="cross")
    schema = EventSchema(behavior="behavior", time_bounds=None)
    graph = build_behavior_graph(read_events(events, schema=schema))
    edge_types = [Relation(graph.domains[0], name).reverse_edge_type for name in ("buy", "view")]
    pairs = ItemPairSampler(graph, edge_types, fit_until=20 * DAY)
    found = Counter(map(tuple, pairs.sample(pairs.users())[1:].T.tolist()))
    # of five events, those of items 0 and 4 have no partner less than five days before; ties pair both ways
    assert set(found) == {(a, b) for a in (1, 2, 3) for b in (0, 1, 2, 3) if a != b}
    for count in found.values():
        assert 20 < count < 65  # 40 expected of each


def test_items_bought_together_come_together(done):
    model, words, before, curve = done
    group = torch.arange(30) % NUM_GROUPS
    after = embed_items(model, words)
    assert gap(before[:30], group) < 0.1
    assert gap(after[:30], group) > 0.5
    assert curve[-1].loss < curve[0].loss
    assert model.fit_until == FIT_UNTIL


def test_items_of_one_text_are_no_pair_and_no_negatives(monkeypatch):
    """Every second item of a group has one text: its vectors are equal whatever the weights."""
    graph = shop()
    words = item_words(graph)
    same = [["red"] if number % 2 else one[:1] for number, one in enumerate(words["text"].to_list())]
    words = words.with_columns(text=pl.Series(same))
    vocabulary = fit_word_vocabulary(words, known_items(graph, FIT_UNTIL), fit_until=FIT_UNTIL, min_count=1)
    codes = vocabulary.encode(words)
    text = codes.text_number()
    seen = []

    def loss(first, second, *, temperature, owner):
        seen.append(owner)
        return (first * second).sum()

    monkeypatch.setattr("graphrec.training.contrastive.contrastive_loss", loss)
    pairs = ItemPairSampler(graph, [BUY], fit_until=FIT_UNTIL)
    model = ItemEmbedding(len(vocabulary), channels=4)
    train_item_embedding(model, codes, pairs, config=ContrastiveConfig(epochs=3, batch_size=24))
    owner = torch.cat(seen, dim=1)
    red = int(text[1])
    assert bool((owner == red).any())
    assert bool((owner[0] != owner[1]).all())
    drawn = torch.cat([pairs.sample(pairs.users(), epoch=epoch) for epoch in range(3)], dim=1)
    kept = drawn[:, text[drawn[1]] != text[drawn[2]]]
    assert kept.shape[1] < drawn.shape[1]
    assert sorted(owner.T.tolist()) == sorted(text[kept[1:]].T.tolist())


def test_later_events_change_no_weight(done):
    other, *_ = trained(shop(change_from=FIT_UNTIL))
    for name, value in done[0].named_parameters():
        assert torch.equal(other.get_parameter(name), value), name
    earlier, *_ = trained(shop(change_from=FIT_UNTIL - 30 * DAY), ContrastiveConfig(epochs=2, batch_size=24))
    short, *_ = trained(shop(), ContrastiveConfig(epochs=2, batch_size=24))
    assert not torch.equal(earlier.word.weight, short.word.weight)


def test_a_break_changes_nothing_and_files_come_back(tmp_path):
    config = ContrastiveConfig(epochs=4, batch_size=10)
    whole, words, *_ = trained(shop(), config)

    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 7:
            raise StopError

    with pytest.raises(StopError):
        trained(shop(), config, checkpoint=tmp_path / "run.pt", checkpoint_every=5, on_step=stop)
    again, *_ = trained(shop(), config, checkpoint=tmp_path / "run.pt", checkpoint_every=5)
    assert torch.equal(embed_items(again, words), embed_items(whole, words))
    vocabulary, *_ = prepared(shop())
    save_item_embedding(tmp_path / "items.pt", whole, vocabulary)
    loaded, its_vocabulary = load_item_embedding(tmp_path / "items.pt", label_start=FIT_UNTIL)
    assert torch.equal(
        embed_items(loaded, its_vocabulary.encode(item_words(shop()))), embed_items(whole, words)
    )
    with pytest.raises(ValueError, match=f"until {FIT_UNTIL}, labels begin at {FIT_UNTIL - 1}"):
        load_item_embedding(tmp_path / "items.pt", label_start=FIT_UNTIL - 1)
    interests = Interests(torch.eye(3), FIT_UNTIL)
    save_interests(tmp_path / "interests.pt", interests)
    assert torch.equal(load_interests(tmp_path / "interests.pt", label_start=FIT_UNTIL).center, torch.eye(3))
    with pytest.raises(ValueError, match=f"interests were fitted on data until {FIT_UNTIL}"):
        load_interests(tmp_path / "interests.pt", label_start=FIT_UNTIL - 1)


def test_wrong_options_are_refused():
    graph = shop()
    vocabulary, words, pairs = prepared(graph)
    with pytest.raises(ValueError, match="rows are users"):
        ItemPairSampler(graph, [], fit_until=FIT_UNTIL)
    with pytest.raises(ValueError, match="rows are users"):
        ItemPairSampler(graph, [(BUY[2], "shop:buy", BUY[0])], fit_until=FIT_UNTIL)
    for days in (0, float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="max_days must be finite and above 0"):
            ItemPairSampler(graph, [BUY], fit_until=FIT_UNTIL, max_days=days)
    with pytest.raises(ValueError, match="max_days must be at least two units of time"):
        ItemPairSampler(graph, [BUY], fit_until=FIT_UNTIL, max_days=1 / DAY)
    with pytest.raises(ValueError, match="fit_until must be a whole number"):
        ItemPairSampler(graph, [BUY], fit_until=True)
    with pytest.raises(ValueError, match="the model has 2 words and the graph 31 rows"):
        train_item_embedding(ItemEmbedding(2, channels=4), words, pairs, config=CONFIG)
    nobody = ItemPairSampler(graph, [BUY], fit_until=START)
    with pytest.raises(ValueError, match=f"nobody has an event before fit_until={START}"):
        train_item_embedding(ItemEmbedding(len(vocabulary), channels=4), words, nobody, config=CONFIG)
    with pytest.raises(ValueError, match=r"ContrastiveConfig.temperature must be finite and above 0"):
        ContrastiveConfig(temperature=0.0)
    with pytest.raises(
        ValueError, match=r"ContrastiveConfig.batch_size must be a whole number of at least 2"
    ):
        ContrastiveConfig(batch_size=1)
    assert ContrastiveConfig(epochs=0).epochs == 0
