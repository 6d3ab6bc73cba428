"""UserBERT's embedding and encoder against a slow version that takes one user at a time, without padding."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.encoders.sentence_batches import LengthLoader, sentence_length, take_sentences
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT, WordSizes, lay_out
from tests.graphrec.toy_sentences import SIZES, random_sentences

COUNTS = [(3, 2), (0, 0), (5, 0), (0, 4), (1, 6)]


def encoder_of(sizes=SIZES, **options):
    torch.manual_seed(1)
    options = {"channels": 12, "num_heads": 3, "num_blocks": 2, "attribute_channels": 5} | options
    encoder = UserBERT(sizes, **options).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.4)
    return encoder


def slow_word(encoder, kind, actions):
    """Mean over the actions of the projected embeddings side by side."""
    embedding = encoder.words[kind]
    vectors = [
        torch.cat([table.weight[code] for table, code in zip(embedding.tables, action, strict=True)])
        for action in actions
    ]
    return sum(embedding.projection(vector) for vector in vectors) / len(vectors)


def slow_encode(encoder, sentences, query, zeroed=None):
    """Vectors of one user's tokens: the first, the profile's, the words of each kind."""
    tokens = [encoder.first]
    for field, code in enumerate(sentences.profile[query].tolist()):
        tokens.append(encoder.profile[field].weight[code] + encoder.segment.weight[-1])
    for number, (kind, words) in enumerate(sentences.words.items()):
        for word in range(words.ptr[query], words.ptr[query + 1]):
            actions = words.code[words.action_ptr[word] : words.action_ptr[word + 1]].tolist()
            token = slow_word(encoder, kind, actions)
            if zeroed is not None and zeroed[kind][word]:
                token = torch.zeros_like(token)
            position = encoder.position[kind].weight[words.position[word]]
            tokens.append(token + position + encoder.segment.weight[number])
    x = encoder.norm(torch.stack(tokens))[None]
    for block in encoder.blocks:
        x = block(x)
    return x[0]


@pytest.mark.parametrize("attribute_channels", [5, 4])  # 3 * 4 = 12: long words need no projection
def test_encoder_is_the_slow_one(attribute_channels):
    encoder = encoder_of(attribute_channels=attribute_channels)
    assert isinstance(encoder.words["long"].projection, torch.nn.Identity) == (attribute_channels == 4)
    sentences = random_sentences(COUNTS)
    zeroed = {"long": torch.arange(9) % 3 == 1, "short": torch.arange(12) % 4 == 0}
    every = {kind: torch.arange(words.num_words) for kind, words in sentences.words.items()}
    found = encoder.encode(sentences, every, zeroed)
    done = {"long": 0, "short": 0}
    for query, counts in enumerate(COUNTS):
        expected = slow_encode(encoder, sentences, query, zeroed)
        assert len(expected) == 1 + len(SIZES.profile) + sum(counts)
        torch.testing.assert_close(found.first[query], expected[0])
        start = 1 + len(SIZES.profile)
        for kind, count in zip(SIZES.words, counts, strict=True):
            rows = slice(done[kind], done[kind] + count)
            torch.testing.assert_close(found.words[kind][rows], expected[start : start + count])
            start, done[kind] = start + count, rows.stop
    torch.testing.assert_close(encoder(sentences)[2], slow_encode(encoder, sentences, 2)[0])


def test_wanted_words_come_in_their_order():
    encoder, sentences = encoder_of(), random_sentences(COUNTS)
    every = {kind: torch.arange(words.num_words) for kind, words in sentences.words.items()}
    whole = encoder.encode(sentences, every)
    part = encoder.encode(sentences, {"short": torch.tensor([7, 2, 2, 11])})
    assert list(part.words) == ["short"]
    torch.testing.assert_close(part.words["short"], whole.words["short"][[7, 2, 2, 11]])
    torch.testing.assert_close(part.first, whole.first)


@settings(max_examples=25)  # each encodes two batches
@given(
    counts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=5), data=st.data()
)
def test_the_batch_changes_nothing(counts, data):
    encoder, sentences = encoder_of(), random_sentences(counts, seed=len(counts))
    query = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=6))
    taken = take_sentences(sentences, torch.tensor(query))
    with torch.no_grad():
        torch.testing.assert_close(encoder(taken), encoder(sentences)[query])
    for number, q in enumerate(query):
        alone = take_sentences(sentences, torch.tensor([q]))
        again = take_sentences(taken, torch.tensor([number]))
        assert torch.equal(alone.profile, again.profile)
        for kind in SIZES.words:
            for name, value in vars(alone.words[kind]).items():
                assert torch.equal(value, getattr(again.words[kind], name))


def test_gradients_reach_all_weights_and_only_the_rows_that_occur():
    encoder, sentences = encoder_of(), random_sentences(COUNTS)
    encoder.encode(sentences, {"long": torch.arange(9), "short": torch.arange(12)}).first.pow(
        3
    ).sum().backward()
    for name, parameter in encoder.named_parameters():
        # attention adds the same to all logits of a query, which a softmax does not feel
        key_bias = name.endswith("lin_query_key_value.bias")
        assert parameter.grad is not None, name
        assert (parameter.grad[:12] if key_bias else parameter.grad).abs().sum() > 1e-9, name
    for kind, words in sentences.words.items():
        for attribute, table in enumerate(encoder.words[kind].tables):
            touched = table.weight.grad.abs().sum(dim=1) > 0
            assert touched.nonzero()[:, 0].tolist() == words.code[:, attribute].unique().tolist()


def test_checkpointed_activations_give_the_same_gradients_and_keep_less(monkeypatch):
    sentences, kept, gradients = random_sentences(COUNTS), {}, {}
    for checkpointed in (False, True):
        encoder = encoder_of()
        encoder.checkpoint_activations, numbers = checkpointed, []

        def keep(tensor, numbers=numbers):
            numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = encoder(sentences)
            # what the forward pass kept; what is computed again in the backward pass is let go at once
            kept[checkpointed] = sum(numbers)
            found.pow(3).sum().backward()
        gradients[checkpointed] = {name: p.grad for name, p in encoder.named_parameters()}
    for name, gradient in gradients[False].items():
        assert torch.equal(gradients[True][name], gradient), name
    assert kept[True] < kept[False] / 2


def test_no_query_no_word_no_profile():
    encoder = encoder_of()
    assert encoder(random_sentences([])).shape == (0, 12)
    sizes = SentenceSizes(words={"long": WordSizes(num_codes=(3,), num_positions=2)})
    encoder = encoder_of(sizes)
    found = encoder(random_sentences([(0,), (0,)], sizes=sizes))
    assert torch.equal(found[0], found[1])
    assert found.isfinite().all()


def test_attention_is_laid_out_as_the_words():
    encoder, sentences = encoder_of(), random_sentences(COUNTS)
    weight, layout = encoder.attention(sentences)
    assert weight.shape == (2, 5, 3, 12, 12)  # blocks, queries, heads, tokens of the longest sentence
    torch.testing.assert_close(weight.sum(dim=-1), torch.ones_like(weight[..., 0]))
    assert (weight.sum(dim=(0, 2, 3)) > 0).equal(layout.mask)
    assert layout.mask.sum(dim=1).tolist() == [10, 5, 10, 9, 12]
    place = {kind: (slot // 12, slot % 12) for kind, slot in layout.slot.items()}
    assert place["long"][0].tolist() == [0, 0, 0, 2, 2, 2, 2, 2, 4]
    assert place["short"][1].tolist() == [8, 9, 5, 6, 7, 8, 6, 7, 8, 9, 10, 11]
    assert lay_out(take_sentences(sentences, torch.tensor([0, 2]))).padded is False


def test_what_does_not_fit_is_told():
    encoder, sentences = encoder_of(), random_sentences(COUNTS)
    SIZES.check(sentences)
    small = replace(SIZES, profile=(3, 1, 5, 2))
    with pytest.raises(ValueError, match=r"code of profile field 1 must lie in \[0, 1\), got \[0, 2\]"):
        small.check(sentences)
    words = SIZES.words | {"short": WordSizes(num_codes=(6, 2), num_positions=13)}
    with pytest.raises(ValueError, match=r"code of attribute 1 of 'short' words must lie in \[0, 2\)"):
        replace(SIZES, words=words).check(sentences)
    words = SIZES.words | {"long": WordSizes(num_codes=(5, 9, 7), num_positions=4)}
    with pytest.raises(ValueError, match=r"position of 'long' words must lie in \[0, 4\)"):
        replace(SIZES, words=words).check(sentences)
    without = UserSentences(words=sentences.words, profile=sentences.profile[:, :3])
    with pytest.raises(ValueError, match=r"4 profile fields, the sentences have .* and 3: fit both"):
        encoder(without)
    other_order = UserSentences(
        words=dict(reversed(sentences.words.items())), profile=sentences.profile
    )  # segments are numbered by the order
    with pytest.raises(ValueError, match=r"'long': 3, 'short': 2.*'short': 2, 'long': 3"):
        encoder(other_order)
    for option in ("num_blocks", "num_heads", "channels", "attribute_channels"):
        with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
            UserBERT(SIZES, **{option: 0})
    with pytest.raises(ValueError, match="channels must be a positive multiple of num_heads, got"):
        UserBERT(SIZES, channels=8, num_heads=3)
    with pytest.raises(ValueError, match=r"sizes.words is empty"):
        UserBERT(replace(SIZES, words={}))


def test_batches_of_like_length_hold_every_seed_once():
    length = sentence_length(random_sentences([(i % 7, i % 5) for i in range(103)]))
    assert length.tolist() == [i % 7 + i % 5 for i in range(103)]
    loader = LengthLoader(
        length, batch_size=4, collate=lambda index: index, shuffle=True, pool_size=5, random_seed=3
    )
    batches = list(loader.batches(1))
    assert [len(batch) for batch in batches] == 25 * [4] + [3]
    assert sorted(torch.cat(batches).tolist()) == list(range(103))

    def spread(pool_size):
        """Mean difference of the longest and the shortest of a batch."""
        loader = LengthLoader(
            length, batch_size=4, collate=lambda i: length[i], shuffle=True, pool_size=pool_size
        )
        whole = list(loader.batches())[:-1]
        return sum(int(batch.max() - batch.min()) for batch in whole) / len(whole)

    assert spread(25) < 1 < spread(5) < 2.5 < 4 < spread(1)
    means = torch.stack([length[batch].double().mean() for batch in batches])
    assert not means.equal(means.sort().values)  # dealt in another order than by length
    assert all(map(torch.equal, batches[9:], loader.batches(1, start_batch=9)))
    assert not torch.equal(batches[0], next(iter(loader.batches(2))))
    in_order = LengthLoader(length, batch_size=4, collate=lambda index: length[index])
    together = torch.cat(list(in_order.batches()))
    assert together.equal(length.sort().values)
    with pytest.raises(ValueError, match="at least one batch, got pool_size=0"):
        LengthLoader(length, batch_size=4, collate=lambda index: index, pool_size=0)
