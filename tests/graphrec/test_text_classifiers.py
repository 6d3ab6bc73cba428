"""TextCNN and HAN: what they read, formulas in plain Python, padding without effect, a planted task."""

import math

import pytest
import torch

from graphrec.encoders.item_text import ItemWords
from graphrec.models.text_classifiers import (
    HAN,
    AttentiveGRU,
    TextClassifierConfig,
    TextCNN,
    fit_text_classifier,
    last_items,
)
from samplers import EventHistory

# items: "0 1", none, "2", "3 3 4"
WORDS = ItemWords(torch.tensor([0, 2, 2, 3, 6]), torch.tensor([0, 1, 2, 3, 3, 4]))
LIVES = [[0, 3, 0, 2], [], [1], [2, 1, 3]]


def items_of(lives, **options):
    item = torch.tensor([item for life in lives for item in life], dtype=torch.int64)
    ptr = torch.tensor([0, *(len(life) for life in lives)]).cumsum(0)
    return last_items(
        EventHistory(ptr, item, torch.arange(len(item)), torch.arange(len(item))), WORDS, **options
    )


def test_the_last_items_and_their_words():
    items = items_of(LIVES, max_events=2)  # item 1 has no word
    assert items.ptr.tolist() == [0, 2, 2, 2, 4]
    assert items.item.tolist() == [0, 2, 2, 3]
    grid = items_of(LIVES).padded(torch.tensor([3, 1, 0]))
    assert grid.word.tolist() == [[1, 2, 0], [3, 0, 0], [4, 4, 5]]  # items 0, 2 and 3, each once
    assert grid.item.tolist() == [[2, 3, 0, 0], [0, 0, 0, 0], [1, 3, 1, 2]]
    assert items_of([[], []]).padded(torch.tensor([0, 1])).item.tolist() == [[0], [0]]
    with pytest.raises(ValueError, match="max_events must be at least 1"):
        items_of(LIVES, max_events=0)


def test_textcnn_is_the_greatest_value_of_each_filter():
    torch.manual_seed(0)
    model = TextCNN(5, channels=4, widths=(2, 3))
    found = model(items_of(LIVES).padded(torch.tensor([0])))[0]
    text = [0, 1, 3, 3, 4, 0, 1, 2]  # of items 0, 3, 0 and 2
    table = model.word.weight[1:].tolist()
    expected = []
    for layer, width in zip(model.filters, (2, 3), strict=True):
        blank = [[0.0] * 4] * (width - 1)
        x = [*blank, *(table[word] for word in text), *blank]
        for filter_, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True):
            values = [
                bias + sum(filter_[c][k] * x[start + k][c] for c in range(4) for k in range(width))
                for start in range(len(x) - width + 1)
            ]
            expected.append(max(0.0, *values))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_attention_weighs_the_states():
    torch.manual_seed(0)
    layer = AttentiveGRU(4)
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = layer(x, mask)
    state = layer.gru(x[:1, :2])[0][0].tolist()
    weight, bias = layer.hidden.weight.tolist(), layer.hidden.bias.tolist()
    context = layer.context.weight[0].tolist()
    scores = []
    for h in state:
        u = [
            math.tanh(sum(w * a for w, a in zip(row, h, strict=True)) + b)
            for row, b in zip(weight, bias, strict=True)
        ]
        scores.append(math.exp(sum(a * b for a, b in zip(context, u, strict=True))))
    expected = [sum(s / sum(scores) * h[c] for s, h in zip(scores, state, strict=True)) for c in range(4)]
    torch.testing.assert_close(found[0], torch.tensor(expected))
    assert torch.equal(found[1], torch.zeros(4))


@pytest.mark.parametrize("make", [TextCNN, HAN])
def test_vectors_do_not_depend_on_the_batch(make):
    torch.manual_seed(0)
    model = make(5, channels=4)
    items = items_of(LIVES)
    together = model(items.padded(torch.arange(4)))
    for query in range(4):
        torch.testing.assert_close(model(items.padded(torch.tensor([query])))[0], together[query])
    assert torch.equal(together[1:3], torch.zeros(2, 4))  # no event, and an item without a word


@pytest.mark.parametrize("make", [TextCNN, HAN])
def test_a_planted_class_is_found_and_only_training_labels_are_read(make):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (160,), generator=generator)
    lives = [
        [int(i) for i in torch.randint(0, 3, (5,), generator=generator)] + ([3] if one else [2])
        for one in label.tolist()
    ]
    is_test = torch.arange(160) % 4 == 0
    config = TextClassifierConfig(epochs=5, batch_size=24, learning_rate=3e-2)

    def fitted(label):
        torch.manual_seed(0)
        return fit_text_classifier(make(5, channels=8), items_of(lives), label, is_test, config=config)

    found = fitted(label)
    assert found.shape == (40, 2)
    assert float((found.argmax(dim=1) == label[is_test]).double().mean()) > 0.9
    assert torch.equal(fitted(torch.where(is_test, 1 - label, label)), found)
    some = torch.where(torch.arange(160) < 40, -1, label)
    assert fitted(some).shape == (30, 2)


def test_what_cannot_be_fitted_is_refused():
    config = TextClassifierConfig()
    label, nobody = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="got 4 labels, 0 to fit on"):
        fit_text_classifier(TextCNN(5, channels=4), items_of(LIVES), label, nobody, config=config)
    with pytest.raises(ValueError, match="channels must be a multiple of 2"):
        TextCNN(5, channels=3)
    with pytest.raises(ValueError, match="channels must be even"):
        HAN(5, channels=3)
