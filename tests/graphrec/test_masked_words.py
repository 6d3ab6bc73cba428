"""The pretext task: which words are chosen and zeroed, what is to be predicted, and what the loss reads."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphrec.encoders.sentence_batches import take_sentences
from graphrec.encoders.sentences import MISSING, RARE, UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT, WordSizes
from graphrec.training.masked_words import (
    MaskedWordModel,
    TargetSampler,
    class_counts,
    mask_words,
    word_targets,
)
from tests.graphrec.toy_sentences import SIZES, random_sentences, words_from_lists

COUNTS = [(3, 2), (0, 0), (9, 0), (0, 4), (12, 16)]


def model_of(sizes=SIZES):
    torch.manual_seed(1)
    encoder = UserBERT(sizes, channels=12, num_heads=3, num_blocks=2, attribute_channels=5)
    model = MaskedWordModel(encoder).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def chosen_of(batch, kind, query):
    """Places in the query's sentence of its chosen words of one kind, and which of them are zeroed."""
    start, end = batch.sentences.words[kind].ptr[query : query + 2].tolist()
    chosen = batch.chosen[kind]
    places = [word - start for word in chosen.word.tolist() if start <= word < end]
    return places, [place for place in range(end - start) if chosen.zeroed[start + place]]


@given(
    counts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4),
    share=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
)
def test_the_rounded_share_of_each_sentence_is_chosen(counts, share):
    batch = mask_words(random_sentences(counts), torch.arange(len(counts)) + 7, chosen_share=share)
    for query, (num_long, num_short) in enumerate(counts):
        total = 0
        for kind in SIZES.words:
            places, zeroed = chosen_of(batch, kind, query)
            assert len(set(places)) == len(places)
            assert set(zeroed) <= set(places)
            total += len(places)
        words = num_long + num_short
        assert total == (max(1, int(share * words + 0.5)) if words else 0)


def test_words_are_chosen_uniformly_and_four_fifths_zeroed():
    sentences = random_sentences([(6, 4)] * 3000, max_actions=1)
    batch = mask_words(sentences, torch.arange(3000), chosen_share=0.3)
    chosen, zeroed = Counter(), 0
    for kind, size in (("long", 6), ("short", 4)):
        chosen.update((kind, int(word) % size) for word in batch.chosen[kind].word)
        zeroed += int(batch.chosen[kind].zeroed.sum())
    assert sum(chosen.values()) == 9000
    assert len(chosen) == 10
    assert all(abs(count - 900) < 4 * (3000 * 0.3 * 0.7) ** 0.5 for count in chosen.values())
    assert abs(zeroed - 7200) < 4 * (9000 * 0.8 * 0.2) ** 0.5


def test_draws_depend_on_the_query_and_epoch_alone():
    sentences, query = random_sentences([(8, 9)] * 40), torch.arange(40) * 3
    whole = mask_words(sentences, query, random_seed=5, epoch=2)
    some = torch.tensor([31, 4, 17])
    part = mask_words(take_sentences(sentences, some), query[some], random_seed=5, epoch=2)
    for number, q in enumerate(some.tolist()):
        for kind in SIZES.words:
            assert chosen_of(part, kind, number) == chosen_of(whole, kind, q)
    for other in ({"random_seed": 6, "epoch": 2}, {"random_seed": 5, "epoch": 3}):
        again = mask_words(sentences, query, **other)
        assert not torch.equal(again.chosen["long"].word, whole.chosen["long"].word)
    # sentences of one length differ in what is chosen
    assert len({tuple(chosen_of(whole, "long", q)[0]) for q in range(40)}) > 10


def test_targets_are_the_distinct_codes_without_missing():
    words = words_from_lists(
        [
            [(0, [(5, MISSING), (2, 3), (5, 3)])],  # word 0
            [(0, [(4, 4)]), (1, [(MISSING, MISSING), (RARE, MISSING)])],  # words 1 and 2
            [(0, [(MISSING, 2)])],  # word 3
        ],
        2,
    )
    first, second = word_targets(words, torch.tensor([0, 2, 3]))
    # a class is a code less one; words are numbered among the chosen
    assert first.word.tolist() == [0, 1]
    assert list(zip(first.row.tolist(), first.true_class.tolist(), strict=True)) == [(0, 1), (0, 4), (1, 0)]
    assert second.word.tolist() == [0, 2]
    assert list(zip(second.row.tolist(), second.true_class.tolist(), strict=True)) == [(0, 2), (1, 1)]
    nothing = word_targets(words, torch.zeros(0, dtype=torch.int64))
    assert [len(target.word) + len(target.row) for target in nothing] == [0, 0]


def slow_losses(model, batch):
    """Equation 1 from its definition: binary vectors, a log softmax, one chosen word at a time."""
    zeroed = {kind: chosen.zeroed for kind, chosen in batch.chosen.items()}
    every = {kind: torch.arange(words.num_words) for kind, words in batch.sentences.words.items()}
    encoded = model.encoder.encode(batch.sentences, every, zeroed)
    losses = {}
    for kind, words in batch.sentences.words.items():
        losses[kind] = []
        for attribute, head in enumerate(model.heads[kind]):
            loss = torch.zeros((), dtype=torch.float64)
            for word in batch.chosen[kind].word.tolist():
                present = words.code[words.action_ptr[word] : words.action_ptr[word + 1], attribute]
                label = torch.zeros(SIZES.words[kind].num_codes[attribute], dtype=torch.float64)
                label[present] = 1
                log_share = head(encoded.words[kind][word]).log_softmax(dim=0)
                loss = loss - (label[1:] * log_share).sum()  # MISSING is no class
            losses[kind].append(loss)
    return losses


def test_loss_is_equation_1():
    model = model_of()
    batch = mask_words(random_sentences(COUNTS), torch.arange(len(COUNTS)), chosen_share=0.4)
    expected = slow_losses(model, batch)
    torch.testing.assert_close(model.losses(batch), expected)
    total = sum(loss for of_kind in expected.values() for loss in of_kind)
    torch.testing.assert_close(model(batch), total / len(COUNTS))
    model(batch).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_loss_by_hand():
    """With zero output weights all classes are alike: each target costs the logarithm of their number."""
    model = model_of()
    with torch.no_grad():
        for head in model.modules_of_heads():
            head.weight.zero_()
            head.bias.zero_()
    words = {
        "long": words_from_lists([[(0, [(1, 2, MISSING), (1, 3, 4)])]], 3),  # 1 + 2 + 1 distinct codes
        "short": words_from_lists([[(0, [(5, 3)])]], 2),
    }
    sentences = UserSentences(words=words, profile=torch.zeros(1, 4, dtype=torch.int64))
    batch = mask_words(sentences, torch.zeros(1, dtype=torch.int64), chosen_share=1.0)
    found = {kind: [loss.exp().item() for loss in losses] for kind, losses in model.losses(batch).items()}
    assert found["long"] == pytest.approx([4, 8**2, 6])  # classes: 5 - 1, 9 - 1, 7 - 1
    assert found["short"] == pytest.approx([5, 3])


def perturbed(sentences, kind, word):
    """Other codes in one word."""
    words = sentences.words[kind]
    code = words.code.clone()
    actions = slice(words.action_ptr[word], words.action_ptr[word + 1])
    code[actions] = (code[actions] + 1) % torch.tensor(SIZES.words[kind].num_codes)
    return UserSentences(
        words={**sentences.words, kind: replace(words, code=code)}, profile=sentences.profile
    )


def test_only_chosen_words_are_targets_and_zeroed_words_are_not_seen():
    model, sentences = model_of(), random_sentences([(9, 8)])
    batch = mask_words(sentences, torch.tensor([3]), chosen_share=0.3, zeroed_share=0.6)
    zeroed = {kind: chosen.zeroed for kind, chosen in batch.chosen.items()}
    wanted = {kind: chosen.word for kind, chosen in batch.chosen.items()}
    before, seen = model.encoder.encode(sentences, wanted, zeroed), Counter()
    for kind, words in sentences.words.items():
        for word in range(words.num_words):
            other = perturbed(sentences, kind, word)
            again = mask_words(other, torch.tensor([3]), chosen_share=0.3, zeroed_share=0.6)
            is_chosen, is_zeroed = word in batch.chosen[kind].word, bool(batch.chosen[kind].zeroed[word])
            for old, new in zip(batch.chosen[kind].targets, again.chosen[kind].targets, strict=True):
                same = torch.equal(old.row, new.row) and torch.equal(old.true_class, new.true_class)
                if not is_chosen:
                    assert same
                seen["target", is_chosen and not same] += 1
            after = model.encoder.encode(other, wanted, zeroed)
            same = torch.equal(before.first, after.first)
            assert same == is_zeroed
            seen["input", is_zeroed] += 1
    assert len(seen) == 4  # both kinds of words were there


def test_words_of_one_kind_alone_and_no_words():
    model = model_of()
    for counts in ([(0, 3)], [(2, 0)], [(0, 0)]):
        batch = mask_words(random_sentences(counts), torch.tensor([0]))
        loss = model(batch)
        loss.backward()
        assert loss.isfinite()
        assert (loss > 0) == (counts != [(0, 0)])


def test_counts_are_of_words_and_biases_start_from_them():
    sizes = SentenceSizes(words={"long": WordSizes(num_codes=(4, 3), num_positions=2)})
    words = words_from_lists([[(0, [(1, 2), (1, 1), (3, 2)]), (1, [(3, MISSING)])], [(0, [(3, 2)])]], 2)
    sentences = UserSentences(words={"long": words}, profile=torch.zeros(2, 0, dtype=torch.int64))
    model = model_of(sizes)
    counts = class_counts(sentences, model)
    assert [count.tolist() for count in counts["long"]] == [[1, 0, 3], [1, 2]]
    model.start_from_counts(counts)
    expected = torch.tensor([2, 1, 4], dtype=torch.float64) / 7
    torch.testing.assert_close(model.heads["long"][0].bias.exp(), expected)


def test_samples_are_added_for_large_vocabularies_alone():
    model, sentences = model_of(), random_sentences(COUNTS)
    batch = mask_words(sentences, torch.arange(len(COUNTS)), chosen_share=0.5)
    counts = class_counts(sentences, model)
    sampled = TargetSampler(counts, 5).add_to(batch, 0, 3)
    sizes = [None if t.classes is None else len(t.classes.sampled) for t in sampled.chosen["long"].targets]
    assert sizes == [None, 5, 5]  # 4, 8 and 6 classes
    assert [t.classes for t in sampled.chosen["short"].targets] == [None, None]  # 5 and 3
    assert not torch.equal(model(sampled), model(batch))
    draws = [TargetSampler(counts, 5).add_to(batch, *keys) for keys in ((0, 3), (0, 4), (1, 3))]
    classes = [tuple(draw.chosen["long"].targets[1].classes.sampled.tolist()) for draw in draws]
    assert classes[0] == tuple(sampled.chosen["long"].targets[1].classes.sampled.tolist())
    assert len(set(classes)) > 1
    mean = torch.stack([model(TargetSampler(counts, 5).add_to(batch, n)) for n in range(10)]).mean()
    torch.testing.assert_close(mean, model(batch), rtol=0.1, atol=0.0)
    moved = sampled.to("cpu")
    torch.testing.assert_close(model(moved), model(sampled))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_moves_to_the_gpu():
    model, sentences = model_of().float(), random_sentences(COUNTS)
    batch = mask_words(sentences, torch.arange(len(COUNTS)), chosen_share=0.5)
    batch = TargetSampler(class_counts(sentences, model), 5).add_to(batch, 0)
    expected = model(batch)
    on_gpu = mask_words(sentences.to("cuda"), torch.arange(len(COUNTS)), chosen_share=0.5)
    assert torch.equal(on_gpu.chosen["long"].word.cpu(), batch.chosen["long"].word)
    torch.testing.assert_close(model.cuda()(batch.to("cuda")).cpu(), expected, rtol=1e-4, atol=1e-4)
