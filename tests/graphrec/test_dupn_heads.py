"""DUPN's heads by hand-computed numbers: logits, losses, weights of ranking features."""

import math

import pytest
import torch

from graphrec.models.dupn_heads import ClassHead, PairHead, RankingHead, TaskRows, dense_layers
from graphrec.nn.code_vectors import CodeVectors, MappedCodes


def rows_of(label, *, weight=None, entity=None, features=None):
    size = len(label)
    return TaskRows(
        query=torch.arange(size),
        label=torch.tensor(label, dtype=torch.float32),
        weight=torch.ones(size) if weight is None else torch.tensor(weight),
        entity=torch.zeros(size, 0, dtype=torch.int64) if entity is None else torch.tensor(entity),
        features=torch.zeros(size, 0) if features is None else torch.tensor(features),
    )


def set_layers(layers, *values):
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, values, strict=True):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))


def test_pair_head_by_hand():
    tables = CodeVectors((3,), (2,))
    head = PairHead(1, MappedCodes(tables, 1), hidden_channels=(2,))
    with torch.no_grad():
        tables.tables[0].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 2.0], [-3.0, 1.0]]))
    set_layers([head.entity.map], ([[1.0, 1.0]], [0.5]))
    set_layers(head.layers, ([[1.0, 2.0], [-1.0, 1.0]], [0.0, 0.0]), ([[1.0, -1.0]], [0.25]))
    rows = rows_of([1.0, 0.0], entity=[[1], [2]], weight=[1.0, 3.0])
    logit = head(torch.tensor([[2.0], [1.0]]), rows)
    # entities: relu(1 + 2 + .5) = 3.5 and relu(-3 + 1 + .5) = 0
    # hidden: relu(2 + 7, -2 + 3.5) = (9, 1.5) and relu(1, -1) = (1, 0)
    assert logit.tolist() == [7.75, 1.25]
    losses = [math.log1p(math.exp(-7.75)), math.log1p(math.exp(1.25))]
    torch.testing.assert_close(head.losses(logit, rows), torch.tensor(losses))
    torch.testing.assert_close(head.loss(logit, rows), torch.tensor((losses[0] + 3 * losses[1]) / 2))
    assert head.score(logit)[1].item() == pytest.approx(1 / (1 + math.exp(-1.25)), rel=1e-12)


def test_ranking_head_by_hand():
    head = RankingHead(1, 2, hidden_channels=1)
    set_layers(head.layers, ([[1.0]], [0.0]), ([[1.0], [-1.0]], [0.5, 1.0]))
    features = [[2.0, 1.0], [2.0, 1.0], [-1.0, 4.0]]
    rows = rows_of([1.0, -1.0, -1.0], features=features, weight=[2.0, 1.0, 1.0])
    vector = torch.tensor([[3.0], [0.5], [-1.0]])
    # weights of the features: (3.5, relu(-2)), (1, .5), (.5, 1) where the hidden layer is relu(-1)
    assert head.weights(vector).tolist() == [[3.5, 0.0], [1.0, 0.5], [0.5, 1.0]]
    logit = head(vector, rows)
    assert logit.tolist() == [7.0, 2.5, 3.5]
    losses = [math.log1p(math.exp(-7.0)), math.log1p(math.exp(2.5)), math.log1p(math.exp(3.5))]
    torch.testing.assert_close(head.losses(logit, rows), torch.tensor(losses))
    torch.testing.assert_close(
        head.loss(logit, rows), torch.tensor((2 * losses[0] + losses[1] + losses[2]) / 3)
    )
    assert head.score(logit).tolist() == [7.0, 2.5, 3.5]


def test_no_weight_of_a_ranking_feature_is_negative_and_all_begin_above_zero():
    torch.manual_seed(0)
    head = RankingHead(8, 26)
    weight = head.weights(torch.randn(50, 8))
    assert weight.shape == (50, 26)
    assert bool((weight >= 0).all())
    assert bool((weight.mean(dim=0) > 0).all())


def test_class_head_by_hand():
    head = ClassHead(1, 3, hidden_channels=1)
    set_layers(head.layers, ([[1.0]], [1.0]), ([[1.0], [0.0], [-1.0]], [0.0, 0.0, 0.0]))
    rows = rows_of([0.0, 2.0])
    logit = head(torch.tensor([[1.0], [0.0]]), rows)
    assert logit.tolist() == [[2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
    total = [sum(math.exp(z) for z in row) for row in logit.tolist()]
    losses = [math.log(total[0]) - 2.0, math.log(total[1]) + 1.0]
    torch.testing.assert_close(head.losses(logit, rows), torch.tensor(losses))
    assert head.score(logit)[1].tolist() == pytest.approx([math.exp(z) / total[1] for z in (1.0, 0.0, -1.0)])


def test_the_papers_widths():
    shop = MappedCodes(CodeVectors((5, 4), (32, 24)), 64)
    head = PairHead(256, shop, hidden_channels=(128, 64), dropout=0.5)
    widths = [
        (layer.in_features, layer.out_features) for layer in head.layers if hasattr(layer, "in_features")
    ]
    assert widths == [(320, 128), (128, 64), (64, 1)]
    assert [type(layer) for layer in dense_layers([2, 3, 1])] == [
        torch.nn.Linear,
        torch.nn.ReLU,
        torch.nn.Dropout,
        torch.nn.Linear,
    ]


def test_a_part_of_the_columns_shares_their_embeddings():
    torch.manual_seed(0)
    items = CodeVectors((6, 4, 5), (4, 3, 2))
    part = items.part([2, 0])
    assert part.out_channels == 6
    code = torch.tensor([[1, 2, 3], [5, 0, 4]])
    vector = part(code[:, [2, 0]])
    assert torch.equal(vector, torch.cat([items(code)[:, 7:], items(code)[:, :4]], dim=1))
    vector.sum().backward()
    assert [table.weight.grad is not None for table in items.tables] == [True, False, True]


def test_entity_tables_may_be_the_encoders():
    torch.manual_seed(0)
    items = CodeVectors((6,), (4,))
    heads = [PairHead(3, MappedCodes(items, 16)) for _ in range(2)]
    assert heads[0].entity.tables is heads[1].entity.tables
    rows = rows_of([1.0, 0.0], entity=[[1], [5]])
    heads[0].loss(heads[0](torch.randn(2, 3), rows), rows).backward()
    touched = items.tables[0].weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert touched == [1, 5]


def test_labels_that_are_none_of_the_tasks():
    heads = {
        "0, 1": PairHead(1, MappedCodes(CodeVectors((3,), (2,)), 1)),
        "-1, 1": RankingHead(1, 3),
        "0, 1, 2 to 6": ClassHead(1, 7),
    }
    for said, head in heads.items():
        head.check_labels(torch.tensor([float(said[-1]), 1.0]))
        with pytest.raises(ValueError, match=f"are {said}, got 0.5 in row 1 and 1 other"):
            head.check_labels(torch.tensor([1.0, 0.5, float("nan")]))


def test_errors():
    head = PairHead(1, MappedCodes(CodeVectors((3,), (2,)), 1))
    with pytest.raises(ValueError, match="tables are of 1 columns of codes, the rows have 2"):
        head(torch.zeros(1, 1), rows_of([1.0], entity=[[1, 2]]))
    with pytest.raises(ValueError, match="weighs 3 ranking features, the rows have 2"):
        RankingHead(1, 3)(torch.zeros(1, 1), rows_of([1.0], features=[[1.0, 2.0]]))
