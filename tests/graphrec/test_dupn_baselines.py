"""DUPN's baselines: CNN-max and the mean by loops, towers and wide weights by hand, trained on a toy."""

import math

import pytest
import torch

from graphrec.encoders.behavior_sequences import BehaviorSequences, SequenceSizes, concatenate_sequences
from graphrec.encoders.sentences import MISSING
from graphrec.models.dupn_baselines import (
    BehaviorMean,
    CNNMax,
    NoEncoder,
    TowerHead,
    WideHead,
    add_wide_codes,
)
from graphrec.models.dupn_heads import ClassHead, PairHead, RankingHead, TaskRows
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.training.loop import OptimizerConfig
from graphrec.training.multi_task import MultiTaskConfig, MultiTaskModel, TaskData, fit_tasks, score_task

SIZES = SequenceSizes(item=(9, 5), properties=(4,), profile=(3,), query=(3,))


def toy_sequences(length=(3, 0, 5, 1), *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *length]).cumsum(0)
    total, num_queries = int(ptr[-1]), len(length)

    def codes(size, *shape):
        return torch.randint(0, size, shape, generator=generator)

    return BehaviorSequences(
        ptr=ptr,
        item=codes(5, total, 2),
        properties=codes(4, total, 1),
        profile=codes(3, num_queries, 1),
        query=codes(3, num_queries, 1),
    )


def rows_of(label, entity, query=None, features=None):
    size = len(label)
    return TaskRows(
        query=torch.arange(size) if query is None else query,
        label=torch.as_tensor(label, dtype=torch.float32),
        weight=torch.ones(size),
        entity=torch.as_tensor(entity),
        features=torch.zeros(size, 0) if features is None else torch.as_tensor(features),
    )


def behaviors_of(model, sequences, query):
    """One user's vectors of behaviours."""
    part = slice(int(sequences.ptr[query]), int(sequences.ptr[query + 1]))
    return torch.cat([model.item(sequences.item[part]), model.property(sequences.properties[part])], dim=1)


def others_of(model, sequences):
    return torch.cat([model.user(sequences.profile), model.query(sequences.query)], dim=1)


@torch.no_grad()
def test_cnn_max_by_loops():
    torch.manual_seed(0)
    model = CNNMax(
        SIZES, hidden_channels=6, item_channels=3, property_channels=2, user_channels=4, query_channels=2
    )
    sequences = toy_sequences()
    found = model(sequences)
    assert found.shape == (4, model.out_channels) == (4, 12)
    weight, bias = model.convolution.weight, model.convolution.bias
    for query in range(4):
        vectors = behaviors_of(model, sequences, query)
        most = torch.zeros(6)
        for step in range(len(vectors)):
            value = bias.clone()
            for place in range(3):
                if 0 <= step + place - 1 < len(vectors):
                    value += weight[:, :, place] @ vectors[step + place - 1]
            most = torch.maximum(most, value)
        torch.testing.assert_close(found[query, :6], most, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[:, 6:], others_of(model, sequences))


@torch.no_grad()
def test_behavior_mean_by_loops():
    torch.manual_seed(0)
    model = BehaviorMean(SIZES, hidden_channels=(7, 6), item_channels=3, property_channels=2, user_channels=4)
    sequences = toy_sequences()
    means = []
    for query in range(4):
        vectors = behaviors_of(model, sequences, query)
        means.append(vectors.mean(dim=0) if len(vectors) else torch.zeros(8))
    given = torch.cat([torch.stack(means), others_of(model, sequences)], dim=1)
    torch.testing.assert_close(model(sequences), torch.relu(model.layers(given)))


@pytest.mark.parametrize("make", [CNNMax, BehaviorMean])
def test_a_vector_depends_on_no_other_query(make):
    torch.manual_seed(0)
    model, sequences = make(SIZES), toy_sequences()
    whole = model(sequences)
    for query in range(4):
        alone = model(sequences.take(torch.tensor([query])))
        torch.testing.assert_close(alone[0], whole[query], rtol=1e-5, atol=1e-6)
    longer = model(concatenate_sequences([sequences, toy_sequences((9,), seed=1)]))
    torch.testing.assert_close(longer[:4], whole, rtol=1e-5, atol=1e-6)
    # a given query stands in the place of the query's fields
    given = model(sequences, torch.ones(4, model.query_channels))
    assert not torch.equal(given, whole)
    with pytest.raises(ValueError, match="columns of items, properties, profile and query"):
        model(BehaviorSequences(**{**vars(sequences), "query": sequences.query[:, :0]}))


def test_kernel_size_must_be_odd():
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        CNNMax(SIZES, kernel_size=4)


def test_towers_by_hand():
    head = TowerHead(2, MappedCodes(CodeVectors((3,), (2,)), 2), hidden_channels=(2,), scale=3.0)
    with torch.no_grad():
        head.entity.tables.tables[0].weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))
        for layer in (head.entity.map, head.of_user[0], head.of_entity[0]):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        head.bias.fill_(0.5)
    rows = rows_of([1.0, 0.0], [[1], [2]])
    logit = head(torch.tensor([[4.0, 3.0], [0.0, -2.0]]), rows)
    # cosines: 24 / 25, and 0
    torch.testing.assert_close(logit, torch.tensor([3 * 0.96 + 0.5, 0.5]))
    assert head.losses(logit, rows)[1].item() == pytest.approx(math.log1p(math.exp(0.5)))
    assert head.score(logit)[1].item() == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_wide_codes_say_who_did_what_last_and_with_which_entity():
    sequences = toy_sequences((3, 0, 1))
    rows = rows_of([1.0, 0.0, 1.0], [[1, 2], [1, 2], [3, 4]], query=torch.tensor([0, 0, 1]))
    wide = add_wide_codes(rows, sequences, num_last=2, num_buckets=1 << 40)
    num_user = 1 + 1 + 2  # profile, query, two behaviours
    assert wide.entity.shape == (3, 2 + num_user + 2 + num_user * 2)
    assert torch.equal(wide.entity[:, :2], rows.entity)
    assert torch.equal(wide.entity[0], wide.entity[1])  # one query, one entity
    assert bool((wide.entity >= 0).all())
    # with so many buckets, two rows share a cross where they share both of its codes
    user = torch.stack(
        [
            torch.cat([sequences.profile[q], sequences.query[q], torch.tensor(last)])
            for q, last in ((0, sequences.item[[2, 1], 0].tolist()), (1, [MISSING, MISSING]))
        ]
    )
    same_user, same_entity = user[0] == user[1], rows.entity[0] == rows.entity[2]
    wanted = torch.cat([same_user, same_entity, (same_user[:, None] & same_entity).flatten()])
    assert torch.equal(wide.entity[0, 2:] == wide.entity[2, 2:], wanted)
    few = add_wide_codes(rows, sequences, num_last=2, num_buckets=10).entity[:, 2:]
    assert int(few.max()) < 10


def test_wide_head_by_hand():
    rows = rows_of([0.0, 2.0], [[7, 0, 1], [7, 1, 1]], features=[[2.0], [-1.0]])
    head = WideHead(ClassHead, 2, num_buckets=3, num_outputs=3, num_features=1)
    with torch.no_grad():
        head.table.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 0.0]]))
        head.of_features.copy_(torch.tensor([[0.0, 0.0, 0.5]]))
        head.bias.copy_(torch.tensor([0.25, 0.0, 0.0]))
    logit = head(torch.zeros(2, 0), rows)
    assert logit.tolist() == [[1.25, 10.0, 1.0], [0.25, 20.0, -0.5]]
    torch.testing.assert_close(head.losses(logit, rows), ClassHead.losses(logit, rows))
    assert torch.equal(head.score(logit), ClassHead.score(logit))
    # beside a deep head, which reads the first columns
    torch.manual_seed(0)
    deep = PairHead(4, MappedCodes(CodeVectors((9,), (3,)), 5))
    both, vector = WideHead(PairHead, 2, num_buckets=3, num_features=1, deep=deep), torch.randn(2, 4)
    with torch.no_grad():
        both.table.weight[1] = 2.0
    first = rows_of([0.0, 1.0], [[7], [7]])
    torch.testing.assert_close(both(vector, rows), deep(vector, first) + torch.tensor([2.0, 4.0]))
    with pytest.raises(ValueError, match="the wide part reads 4 columns, the rows have 3"):
        WideHead(RankingHead, 4)(vector, rows)


def test_buckets_and_layers_that_cannot_be():
    rows = rows_of([0.0, 1.0], [[1, 0], [1, 7]])
    for wrong in (0, -5):
        with pytest.raises(ValueError, match=f"num_buckets must be .* got {wrong}"):
            add_wide_codes(rows, toy_sequences((1, 1)), num_buckets=wrong)
        with pytest.raises(ValueError, match=f"num_buckets must be .* got {wrong}"):
            WideHead(PairHead, 1, num_buckets=wrong)
    WideHead(PairHead, 1, num_buckets=8).check(rows)
    with pytest.raises(ValueError, match="wide codes are 0 to 7, the head has 7 buckets"):
        WideHead(PairHead, 1, num_buckets=7).check(rows)
    with pytest.raises(ValueError, match="hidden_channels is empty"):
        BehaviorMean(SIZES, hidden_channels=())


def test_labels_of_a_head_are_those_of_its_kind():
    labels = torch.tensor([0.0, 2.0])
    WideHead(ClassHead, 1, num_outputs=3).check_labels(labels)
    for head in (WideHead(PairHead, 1), TowerHead(2, entity_tables()), WideHead(ClassHead, 1, num_outputs=2)):
        with pytest.raises(ValueError, match=r"are 0, 1, got 2 in row 1 and 0 other"):
            head.check_labels(labels)


def planted(num_rows=96):
    """Clicks on entities of two kinds, and on the entity that was the last behaviour: a cross decides."""
    generator = torch.Generator().manual_seed(3)
    sequences = toy_sequences([2] * num_rows, seed=4)
    last = sequences.item[1::2, 0]
    same = torch.rand(num_rows, generator=generator) < 0.5
    entity = torch.where(same, last, (last + torch.randint(1, 5, (num_rows,), generator=generator)) % 5)
    rows, plain = rows_of(same.float(), entity[:, None]), rows_of((entity >= 2).float(), entity[:, None])
    time = torch.arange(num_rows)
    wide = add_wide_codes(rows, sequences, num_last=1, num_buckets=500)
    return {
        name: TaskData(inputs=sequences, time=time, rows=one, known_time=time)
        for name, one in (("plain", plain), ("wide", wide))
    }


def entity_tables():
    return MappedCodes(CodeVectors((5,), (8,)), 16)


MODELS = {
    "Wide": ("wide", NoEncoder, lambda channels: WideHead(PairHead, 7, num_buckets=500)),
    "Wide&Deep": (
        "wide",
        lambda: BehaviorMean(SIZES, hidden_channels=(16,)),
        lambda channels: WideHead(PairHead, 7, num_buckets=500, deep=PairHead(channels, entity_tables())),
    ),
    "DSSM": (
        "plain",
        lambda: BehaviorMean(SIZES, hidden_channels=(16,)),
        lambda channels: TowerHead(channels, entity_tables(), hidden_channels=(16,)),
    ),
    "CNN-max": (
        "plain",
        lambda: CNNMax(SIZES, hidden_channels=16),
        lambda channels: PairHead(channels, entity_tables(), hidden_channels=(32,)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_trained_and_scores(name):
    which, make_encoder, make_head = MODELS[name]
    torch.manual_seed(0)
    encoder = make_encoder()
    model = MultiTaskModel(encoder, {"click": make_head(encoder.out_channels)})
    data = planted()[which]
    optimizer = OptimizerConfig(
        name="adagrad",
        learning_rate=0.1,
        embedding_learning_rate=0.2,
        weight_decay=0.0,
        decay=False,
        epochs=10,
        batch_size=48,
    )
    fit_tasks(model, {"click": data}, fit_until=96, config=MultiTaskConfig(optimizer=optimizer))
    # scored on what was learned from: whether it can learn, not how well
    model.fit_until = encoder.fit_until = None
    score = score_task(model, "click", data)
    right = (score > 0.5).float() == data.rows.label
    assert right.float().mean() > 0.9, name
