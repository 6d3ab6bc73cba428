"""From an event log to a pre-trained encoder, in a few lines; the contract; no look at what comes later."""

from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import nn

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation
from graphrec.encoders.behavior_words import SentenceTokenizer, long_words, short_words
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentence_batches import concatenate_sentences, take_sentences
from graphrec.encoders.userbert import UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder, read_sentences
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_profile, fit_vocabularies
from graphrec.training.loop import OptimizerConfig, train
from graphrec.training.masked_words import MaskedWordModel
from graphrec.training.pretraining import (
    PretrainingConfig,
    load_encoder,
    load_node_encoder,
    pretrain,
    save_encoder,
)
from tests.graphrec.toy_sentences import SIZES, random_sentences

DAY = 86_400
BUY, VIEW = (Relation("shop", name).reverse_edge_type for name in ("buy", "view"))
KINDS = {
    "long": long_words([BUY], attributes=["store"], fields=["genre"], days=30),
    "short": short_words([BUY, VIEW], fields=["genre"]),
}
FIT_UNTIL = 40 * DAY


def graph_of(*, change_from=None):
    """A log of 50 days; with ``change_from``, all events from that time on are of other stores and items."""
    num_events, generator = 600, torch.Generator().manual_seed(0)

    def draw(high):
        return torch.randint(high, (num_events,), generator=generator)

    user, item, store, view, time = draw(6), draw(9), draw(5), draw(2), draw(50 * DAY)
    if change_from is not None:
        late = time >= change_from
        item, store = torch.where(late, (item + 1) % 9, item), torch.where(late, (store + 1) % 5, store)
    events = pl.DataFrame(
        {
            "user_id": user.tolist(),
            "item_id": item.tolist(),
            "time": time.tolist(),
            "behavior": [("buy", "view")[kind] for kind in view.tolist()],
            "store": [str(value) for value in store.tolist()],
        }
    )
    schema = EventSchema(behavior="behavior", default_domain="shop", attributes=("store",), time_bounds=None)
    return build_behavior_graph(
        read_events(events, schema=schema),
        user_table=pl.DataFrame({"user_id": range(6), "city": list("abcabc")}),
        item_table=pl.DataFrame({"item_id": range(9), "genre": list("ggghhhiii")}),
    )


def prepared(graph):
    tokenizer = SentenceTokenizer(
        kinds=KINDS,
        vocabularies=fit_vocabularies(graph, [k.request for k in KINDS.values()], fit_until=FIT_UNTIL),
        profile=fit_profile(graph, "user", ["city"], min_count=1),
        time_zone="America/New_York",
    )
    return tokenizer, InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)


def pretrained(graph):
    """What a user of the library writes."""
    tokenizer, reader = prepared(graph)
    user = torch.arange(6).repeat(4)
    time = torch.tensor([25, 30, 35, 40]).repeat_interleave(6) * DAY
    sentences = read_sentences(reader, tokenizer, user, time, max_events=200)
    torch.manual_seed(0)
    bert = UserBERT(tokenizer.sizes, channels=16, num_blocks=2)
    config = PretrainingConfig(epochs=2, batch_size=8)
    pretrain(MaskedWordModel(bert), sentences, time, fit_until=FIT_UNTIL, config=config)
    return UserBERTEncoder(tokenizer, bert), reader


@pytest.fixture(scope="module")
def done():
    """The encoder of the log as it is, and a reader; nobody changes them."""
    return pretrained(graph_of())


def vectors(encoder, reader, user, time):
    with torch.no_grad():
        return encoder(encoder.prepare(reader.read(torch.tensor(user), torch.tensor(time))))


def test_from_a_log_to_vectors_and_back_from_the_file(done, tmp_path):
    encoder, reader = done
    found = vectors(encoder, reader, [0, 1, 5], [41 * DAY, 45 * DAY, 1])
    assert found.shape == (3, encoder.out_channels) == (3, 16)
    assert found.isfinite().all()
    assert not torch.equal(found[0], found[1])
    assert (set(encoder.requests), encoder.fields) == ({"long", "short"}, ("city",))
    save_encoder(tmp_path / "bert.pt", encoder.bert)
    bert = load_encoder(tmp_path / "bert.pt", label_start=FIT_UNTIL)
    again = UserBERTEncoder(encoder.tokenizer, bert)
    assert torch.equal(vectors(again, reader, [0, 1, 5], [41 * DAY, 45 * DAY, 1]), found)


def test_later_events_change_no_weight_and_no_earlier_vector(done):
    encoder, reader = done
    other, other_reader = pretrained(graph_of(change_from=FIT_UNTIL))
    for name, value in encoder.named_parameters():
        assert torch.equal(other.get_parameter(name), value), name
    queries = [0, 1, 2, 3], [FIT_UNTIL, FIT_UNTIL - 5 * DAY, 20 * DAY, FIT_UNTIL]
    before = vectors(encoder, reader, *queries)
    assert torch.equal(vectors(other, other_reader, *queries), before)
    later = [0, 1, 2, 3], [FIT_UNTIL + 5 * DAY] * 4
    assert not torch.equal(vectors(encoder, reader, *later), vectors(other, other_reader, *later))


def test_what_was_fitted_later_serves_no_earlier_label(done, monkeypatch):
    encoder, _ = done
    encoder.check_before(FIT_UNTIL)
    with pytest.raises(ValueError, match=f"until {FIT_UNTIL}, labels begin at {FIT_UNTIL - 1}"):
        encoder.check_before(FIT_UNTIL - 1)
    monkeypatch.setattr(encoder.bert, "fit_until", FIT_UNTIL + 1)
    with pytest.raises(ValueError, match=f"encoder was pre-trained on data until {FIT_UNTIL + 1}"):
        encoder.check_before(FIT_UNTIL)


def test_a_tokenizer_and_a_model_must_belong_together(done):
    encoder, _ = done
    shorter = {**KINDS, "long": long_words([BUY], attributes=["store"], fields=["genre"], days=20)}
    for kinds in (shorter, dict(reversed(KINDS.items()))):
        with pytest.raises(ValueError, match="take the tokenizer that the model was made for"):
            UserBERTEncoder(replace(encoder.tokenizer, kinds=kinds), encoder.bert)


def other_words(vocabularies):
    """The same number of stores, in another order."""
    state = vocabularies.state()
    state["fields"]["store"]["words"].reverse()
    return AttributeVocabularies.from_state(state)


def test_a_tokenizer_of_other_words_is_refused_though_as_many(done, tmp_path):
    encoder, _ = done
    tokenizer = encoder.tokenizer
    turned = {**KINDS, "short": short_words([VIEW, BUY], fields=["genre"])}
    others = {
        "words": replace(tokenizer, vocabularies=other_words(tokenizer.vocabularies)),
        "edge types": replace(tokenizer, kinds=turned),
        "zone": replace(tokenizer, time_zone="America/Chicago"),
        "limit": replace(tokenizer, kinds={k: replace(v, max_words=9) for k, v in KINDS.items()}),
    }
    save_encoder(tmp_path / "bert.pt", encoder.bert)
    loaded = load_encoder(tmp_path / "bert.pt", label_start=FIT_UNTIL)
    assert loaded.sizes.made_by == tokenizer.facts
    for other in others.values():
        assert other.sizes == tokenizer.sizes
        for bert in (encoder.bert, loaded):
            with pytest.raises(ValueError, match="others than those that the model was made for"):
                UserBERTEncoder(other, bert)
        with pytest.raises(ValueError, match="others than those that the model was made for"):
            save_encoder(tmp_path / "both.pt", encoder.bert, other)
    assert not (tmp_path / "both.pt").exists()
    later = AttributeVocabularies.from_state({**tokenizer.vocabularies.state(), "fit_until": FIT_UNTIL + 1})
    UserBERTEncoder(replace(tokenizer, vocabularies=later), encoder.bert)  # the same codes
    bert = UserBERT(replace(tokenizer, vocabularies=later).sizes, channels=16)
    with pytest.raises(ValueError, match=f"vocabularies were fitted on data until {FIT_UNTIL + 1}, labels"):
        bert.check_before(FIT_UNTIL)


def test_one_file_holds_the_encoder_and_its_tokenizer(done, tmp_path):
    encoder, reader = done
    queries = [0, 1, 5], [41 * DAY, 45 * DAY, 1]
    save_encoder(tmp_path / "both.pt", encoder.bert, encoder.tokenizer)
    again = load_node_encoder(tmp_path / "both.pt", label_start=FIT_UNTIL)
    assert again.tokenizer.fingerprint == encoder.tokenizer.fingerprint
    assert again.tokenizer.kinds == encoder.tokenizer.kinds
    own = InputReader(reader.graph, "user", again.requests, fields=again.fields)
    assert torch.equal(vectors(again, own, *queries), vectors(encoder.eval(), reader, *queries))
    with pytest.raises(ValueError, match=f"until {FIT_UNTIL}, labels begin at {FIT_UNTIL - 1}"):
        load_node_encoder(tmp_path / "both.pt", label_start=FIT_UNTIL - 1)
    state = encoder.tokenizer.state()
    with pytest.raises(ValueError, match="fit and pre-train again"):
        SentenceTokenizer.from_state({**state, "session_gap": 60})


def test_an_encoder_that_learns_inside_a_click_model_moves_its_time():
    bert = UserBERT(SIZES, channels=16, num_blocks=1, num_heads=2)
    frozen = UserBERT(SIZES, channels=16, num_blocks=1, num_heads=2).requires_grad_(False)
    frozen.fit_until = 5
    model = nn.ModuleList([bert, frozen])
    config = OptimizerConfig(epochs=0)
    options = {"num_batches": 1, "config": config, "device": torch.device("cpu")}
    train(model, lambda epoch, start: [], **options)
    assert bert.fit_until is None
    train(model, lambda epoch, start: [], fit_until=70, **options)
    assert (bert.fit_until, frozen.fit_until) == (70, 5)
    with pytest.raises(ValueError, match="until 70, labels begin at 60"):
        bert.check_before(60)
    train(model, lambda epoch, start: [], fit_until=30, **options)
    assert bert.fit_until == 70


def test_query_times_in_another_unit_are_refused():
    start = 1_700_000_000
    events = pl.DataFrame(
        {"user_id": [0, 1, 0, 1], "item_id": [0, 1, 1, 0], "time": [start + i * 3600 for i in range(4)]}
    )
    graph = build_behavior_graph(read_events(events, schema=EventSchema(default_behavior="buy")))
    edges = [one for one in graph.edge_types if one[2] == "user"]
    kinds = {"short": short_words(edges)}
    vocabularies = fit_vocabularies(graph, [kinds["short"].request], fit_until=start + DAY)
    tokenizer = SentenceTokenizer(kinds=kinds, vocabularies=vocabularies, time_zone="UTC")
    reader = InputReader(graph, "user", tokenizer.requests)

    def words(time):
        node, times = torch.tensor([0, 1]), torch.tensor([start, time])
        return read_sentences(reader, tokenizer, node, times).words["short"].num_words

    units = reader.units_per_second
    assert words((start + DAY) * units) > 0
    assert words((start + 20 * 365 * DAY) * units) == 0  # late, but in the unit
    with pytest.raises(ValueError, match="multiply or divide the query times by 1,000"):
        words((start + DAY) * units * 1000)


def test_parts_make_the_whole():
    graph = graph_of()
    tokenizer, reader = prepared(graph)
    user, time = torch.arange(6), torch.full((6,), 33 * DAY)
    whole = tokenizer.tokenize(reader.read(user, time))
    for max_events in (1, 40):
        parts = read_sentences(reader, tokenizer, user, time, max_events=max_events)
        assert torch.equal(parts.profile, whole.profile)
        for kind, words in whole.words.items():
            assert words.num_words > 6
            for name, value in vars(words).items():
                assert torch.equal(getattr(parts.words[kind], name), value)
    sentences = random_sentences([(2, 1), (0, 0), (1, 3)])
    pieces = [take_sentences(sentences, torch.tensor(query)) for query in ([0], [1, 2])]
    assert torch.equal(concatenate_sentences(pieces).words["short"].code, sentences.words["short"].code)
    with pytest.raises(ValueError, match="no query to read"):
        read_sentences(reader, tokenizer, user[:0], time[:0])
    with pytest.raises(ValueError, match="at least one part"):
        concatenate_sentences([])
    with pytest.raises(ValueError, match="same kinds of words"):
        concatenate_sentences([sentences, replace(sentences, words={"long": sentences.words["long"]})])
