"""The towers: independence of the batch, empty sentences, what each learns, and what is refused."""

from dataclasses import replace

import pytest
import torch

from graphrec.encoders.sentence_batches import take_sentences
from graphrec.evaluation import auc
from graphrec.models.user_counts import aggregate
from graphrec.models.user_towers import LSTMTowers, TransformerTowers, WideDeepModel
from graphrec.training.finetuning import FinetuningConfig, finetune, pretrain_on_tasks
from tests.graphrec.toy_sentences import SIZES, random_sentences
from tests.graphrec.toy_tasks import TEST_START, TOY_SIZES, toy_task

MODELS = {
    "wide": lambda sizes: WideDeepModel(
        sizes, channels=12, attribute_channels=6, hidden_channels=(64, 32, 32, 16), max_codes=16
    ),
    "lstm": lambda sizes: LSTMTowers(sizes, channels=12, attribute_channels=6),
    "transformer": lambda sizes: TransformerTowers(
        sizes, channels=12, num_blocks=1, num_heads=2, attribute_channels=6
    ),
}
LEARN = FinetuningConfig(epochs=10, batch_size=16, learning_rate=0.01)
FIELDS = ("city",)


def make(name, sizes=TOY_SIZES):
    torch.manual_seed(0)
    return MODELS[name](sizes)


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_does_not_depend_on_the_batch(name):
    model = make(name, SIZES).eval()
    sentences = random_sentences([(3, 2), (0, 0), (5, 0), (0, 4), (2, 2)])
    with torch.no_grad():
        vectors = model(sentences)
        for query in range(5):
            alone = model(take_sentences(sentences, torch.tensor([query])))
            torch.testing.assert_close(alone[0], vectors[query])
        assert model(take_sentences(sentences, torch.zeros(0, dtype=torch.int64))).shape == (0, 12)
    assert len(vectors.unique(dim=0)) == 5
    assert model.out_channels == 12


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_learns(name):
    model = make(name, SIZES)
    model(random_sentences([(3, 2), (5, 0), (0, 4), (2, 2)] * 8)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_label_is_learnt_and_without_it_nothing_is(name, planted):
    task, sentences, _ = toy_task(planted=planted)
    result = finetune(make(name), task, sentences, config=LEARN, fields=FIELDS)
    value = auc(result.queries["label"].to_numpy(), result.score[:, 0].numpy())
    low, high = (0.95, 1.0) if planted else (0.35, 0.65)
    assert low <= value <= high


@pytest.mark.parametrize("name", MODELS)
def test_pretrains_on_other_tasks_and_knows_until_when(name):
    genres, sentences, topic = toy_task("set")
    binary = toy_task()[0]
    model = make(name)
    train = take_sentences(sentences, torch.arange(200))
    longer = replace(LEARN, epochs=15)
    together = pretrain_on_tasks(
        model, [genres, binary], train, fit_until=TEST_START, config=longer, fields=FIELDS
    )
    with torch.no_grad():
        genre, odd = together(take_sentences(sentences, torch.arange(200, 400)))
    assert (genre[:, :4].argmax(dim=1) == topic[200:]).float().mean() > 0.75  # chance: a quarter
    assert ((odd[:, 0] > 0) == (topic[200:] % 2 == 1)).float().mean() > 0.8
    again = make(name)
    again.load_state_dict(model.state_dict())
    assert model.fit_until == again.fit_until == TEST_START
    model.fit_until = binary.label_start["test"] + 1
    with pytest.raises(ValueError, match="trained on data until"):
        finetune(model, binary, sentences, config=LEARN, fields=FIELDS)
    again.fit_until = 7
    with pytest.raises(ValueError, match="fitted on data until 1000, this model until 7"):
        again.load_state_dict({**model.state_dict(), "_extra_state": {"fit_until": 1000}})


def test_the_order_of_words_matters_to_the_lstm_and_their_position_to_both():
    sentences = random_sentences([(3, 2)])
    flipped = random_sentences([(3, 2)])
    words = flipped.words["short"]
    words.position[:] = words.position.flip(0) + (words.position == words.position.flip(0)).long()
    for name in ("lstm", "transformer"):
        model = make(name, SIZES).eval()
        assert not torch.allclose(model(sentences), model(flipped))


def test_the_deep_part_reads_the_features_alone_and_the_wide_part_is_linear():
    torch.manual_seed(0)
    model, sentences = WideDeepModel(SIZES, max_codes=16).eval(), random_sentences([(3, 2), (2, 2)])
    deep = model.deep(aggregate(sentences, SIZES, max_codes=16))
    fields = [table(sentences.profile[:, place]) for place, table in enumerate(model.profile)]
    expected = torch.cat([deep, *fields], dim=1) @ model.lin_joint.weight.T + model.lin_joint.bias
    torch.testing.assert_close(model(sentences), expected)
    assert [layer.out_features for layer in model.deep[::3]] == [512, 256, 256, 128]


def test_other_sentences_are_refused():
    with pytest.raises(ValueError, match="fit both on one vocabulary"):
        make("lstm", SIZES)(toy_task()[1])
