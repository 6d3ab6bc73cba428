"""Episodes: what they hold, predictions by hand, adaptation of f."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from graphrec.models.meta_profile import (
    PrototypeSimilarity,
    RelationModule,
    Similarity,
    weighted_label_logit,
)
from graphrec.training.episodes import (
    AdaptConfig,
    EpisodeConfig,
    EpisodeSampler,
    adapt_similarity,
    episode_logits,
    episode_loss,
    predict_few_shot,
)

NONE = math.nan
LABEL = torch.tensor(
    [
        [1.0, 0.0, NONE],
        [1.0, 1.0, 0.0],
        [0.0, NONE, NONE],
        [0.0, 1.0, 0.0],
        [NONE, 0.0, 0.0],
        [NONE, NONE, NONE],
        [1.0, 1.0, 0.0],
    ]
)
CONFIG = EpisodeConfig(num_ways=2, num_shots=2, batch_size=4)


class MinusDistance(Similarity):
    """f of the test: the negative distance on a line."""

    def forward(self, query, support, label):
        return weighted_label_logit(-(query - support.T).abs(), label)


def test_prototypes_are_made_once_however_many_rows_are_scored():
    torch.manual_seed(0)
    query, support, label = torch.randn(50, 3), torch.randn(200, 3), (torch.rand(200) < 0.3).float()
    asked = []

    class Counted(PrototypeSimilarity):
        def forward(self, query, support, label):
            asked.append(len(query))
            return super().forward(query, support, label)

    found = predict_few_shot(Counted(), query, support, label, max_pairs=200)
    assert torch.equal(found, PrototypeSimilarity()(query, support, label))
    assert asked == [50], "a row is compared with two means, not with 200 examples"


def test_an_episode_holds_examples_of_each_class_of_each_task():
    sampler = EpisodeSampler(LABEL, CONFIG)
    seen = set()
    for number in range(30):
        episode = sampler.episode(number)
        assert episode.task.tolist() == [0, 1]  # the third task has no positive
        assert episode.support.shape == (2, 2, 2)
        for place, task in enumerate(episode.task):
            for value in (0, 1):
                rows = episode.support[place, value]
                assert len(rows.unique()) == 2
                assert (LABEL[rows, task] == value).all()
        assert len(episode.batch.unique()) == 4
        assert 5 not in episode.batch  # has no label at all
        again = EpisodeSampler(LABEL, CONFIG).episode(number)
        assert torch.equal(again.batch, episode.batch)
        assert torch.equal(again.support, episode.support)
        seen.add((tuple(episode.batch.tolist()), tuple(episode.support.flatten().tolist())))
    assert len(seen) > 20
    other = EpisodeSampler(LABEL, replace(CONFIG, random_seed=1)).episode(0)
    assert not torch.equal(other.support, sampler.episode(0).support)


def test_a_task_is_drawn_as_often_as_another():
    sampler = EpisodeSampler(LABEL[:, [0, 1, 1]], EpisodeConfig(num_ways=1, batch_size=1))
    drawn = torch.cat([sampler.episode(number).task for number in range(150)])
    assert torch.bincount(drawn).min() > 30


def test_users_who_are_examples_are_not_asked():
    user = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    for users in (None, user):
        sampler = EpisodeSampler(LABEL, replace(CONFIG, batch_size=7), user=users)
        own = torch.arange(7) if users is None else users
        hidden = 0
        for number in range(20):
            episode = sampler.episode(number)
            label = sampler.batch_label(episode)
            for row, of_row in zip(episode.batch.tolist(), label, strict=True):
                for place, task in enumerate(episode.task.tolist()):
                    is_example = int(own[row]) in own[episode.support[place]].flatten().tolist()
                    wanted = NONE if is_example else float(LABEL[row, task])
                    hidden += is_example
                    assert float(of_row[place]) == wanted or (
                        math.isnan(wanted) and math.isnan(of_row[place])
                    )
        assert hidden


def test_predictions_are_the_similarity_weighted_sum_of_labels():
    query = torch.tensor([[0.0], [1.0]])
    support = torch.tensor([[0.5], [2.0], [-1.0]])
    label = torch.tensor([1.0, 0.0, 1.0])
    found = predict_few_shot(MinusDistance(), query, support, label).sigmoid()
    for x, probability in zip((0.0, 1.0), found.tolist(), strict=True):
        weights = [math.exp(-abs(x - s)) for s in (0.5, 2.0, -1.0)]
        assert probability == pytest.approx((weights[0] + weights[2]) / sum(weights))
    alone = predict_few_shot(MinusDistance(), query, support, label, max_pairs=1)
    torch.testing.assert_close(alone.sigmoid(), found)
    assert predict_few_shot(MinusDistance(), query[:0], support, label).shape == (0,)
    # the same through an episode of two tasks, the second with the labels swapped
    of_class = torch.stack([support[[1, 1]], support[[0, 2]]])  # class 0 has its one example twice
    logit = episode_logits(MinusDistance(), query, torch.stack([of_class, of_class.flip(0)]))
    weights = [[math.exp(-abs(x - s)) for s in (2.0, 2.0, 0.5, -1.0)] for x in (0.0, 1.0)]
    wanted = [sum(row[2:]) / sum(row) for row in weights]
    torch.testing.assert_close(logit.sigmoid(), torch.tensor([[p, 1 - p] for p in wanted]))


def test_the_loss_knows_the_share_of_positives_by_hand():
    label = torch.tensor([[1.0], [0.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    x = torch.tensor([[0.0], [1.0], [3.0], [4.0], [-2.0], [2.0], [0.5]])
    sampler = EpisodeSampler(label, EpisodeConfig(num_ways=1, batch_size=7))
    episode = sampler.episode(0)
    negative, positive = (int(episode.support[0, value, 0]) for value in (0, 1))
    total = 0.0
    asked = [row for row in range(7) if row not in (positive, negative)]
    for row in asked:
        # two positives to five negatives: the example of the positives counts two fifths
        near = [math.exp(-abs(float(x[row] - x[other]))) for other in (negative, positive)]
        near[1] *= 2 / 5
        total -= math.log(near[int(label[row])] / sum(near))
    found = episode_loss(sampler, episode, MinusDistance(), x[episode.batch], x[episode.support])
    torch.testing.assert_close(found, torch.tensor(total / len(asked)))


def test_far_examples_give_sure_predictions_and_no_overflow():
    logit = weighted_label_logit(torch.tensor([[500.0, -500.0]]), torch.tensor([1.0, 0.0]))
    assert logit.tolist() == [1000.0]


def test_the_relation_module_is_a_network_on_pairs():
    torch.manual_seed(0)
    relation = RelationModule(3, hidden_channels=5)
    query, support = torch.randn(4, 3), torch.randn(6, 3)
    joined = nn.Linear(9, 5)
    with torch.no_grad():
        parts = (relation.of_query, relation.of_support, relation.of_difference)
        joined.weight.copy_(torch.cat([part.weight for part in parts], dim=1))
        joined.bias.copy_(relation.of_query.bias)
    pairs = torch.cat(
        [
            query[:, None].expand(4, 6, 3),
            support.expand(4, 6, 3),
            (query[:, None] - support).abs(),
        ],
        dim=2,
    )
    wanted = relation.layers(joined(pairs))[..., 0]
    torch.testing.assert_close(relation.score(query, support), wanted)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        RelationModule(3, num_layers=0)


def test_prototypes_are_the_means_of_the_classes():
    query = torch.tensor([[1.0, 2.0]])
    support = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 2.0]])
    logit = PrototypeSimilarity()(query, support, torch.tensor([0.0, 0.0, 1.0]))
    assert logit.tolist() == [4.0 - 4.0]
    logit = PrototypeSimilarity()(query, support, torch.tensor([0.0, 1.0, 1.0]))
    assert logit.tolist() == [5.0 - (1.5**2 + 1.0)]


def test_adaptation_fits_a_copy_to_the_target():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(60, 2, generator=generator)
    label = (embedding[:, 0] > 0).float()  # the second channel says nothing
    torch.manual_seed(0)
    relation = RelationModule(2, hidden_channels=16)
    before = {name: value.clone() for name, value in relation.state_dict().items()}
    config = AdaptConfig(num_steps=70, learning_rate=0.02)
    adapted = adapt_similarity(relation, embedding[:40], label[:40], config)
    for name, value in relation.state_dict().items():
        assert torch.equal(value, before[name])
    assert not adapted.training
    right = []
    for model in (relation, adapted):
        logit = predict_few_shot(model, embedding[40:], embedding[:40], label[:40])
        right.append(float(((logit > 0) == (label[40:] == 1)).float().mean()))
    assert right[1] > 0.85 > right[0]
    again = adapt_similarity(relation, embedding[:40], label[:40], config)
    for name, value in adapted.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    # two of a class, each predicted in turn; and similarities of which nothing learns
    few = adapt_similarity(relation, embedding[:4], torch.tensor([1.0, 0.0, 1.0, 0.0]), config)
    assert not all(torch.equal(value, before[name]) for name, value in few.state_dict().items())
    relation.requires_grad_(False)
    frozen = adapt_similarity(relation, embedding, label, config)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert isinstance(adapt_similarity(PrototypeSimilarity(), embedding, label, config), PrototypeSimilarity)


@pytest.mark.parametrize("num_negatives", [5, 50])
@pytest.mark.parametrize("user", [None, 0])
def test_where_a_class_has_one_user_f_stays_as_it_was(num_negatives, user):
    generator = torch.Generator().manual_seed(0)
    num_positives = 1 if user is None else 3
    label = torch.tensor([1.0] * num_positives + [0.0] * num_negatives)
    users = None if user is None else (torch.arange(len(label)) - num_positives + 1).clamp(min=user)
    embedding = torch.randn(len(label), 2, generator=generator)
    torch.manual_seed(0)
    relation = RelationModule(2)
    adapted = adapt_similarity(relation, embedding, label, AdaptConfig(num_steps=5), user=users)
    assert adapted is not relation
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, relation.state_dict()[name])
    sampler = EpisodeSampler(label[:, None], EpisodeConfig(num_ways=1), user=users)
    assert sampler.can_be_asked.tolist() == [[True, False]]
    episode = sampler.episode(0)
    batch, support = embedding[episode.batch], embedding[episode.support]
    assert episode_loss(sampler, episode, relation, batch, support) == 0


def test_who_can_be_asked_is_counted_by_user():
    label = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])[:, None]
    for users, shots, wanted in (
        ([0, 1, 2, 3, 4, 5], 1, [True, True]),
        ([0, 1, 2, 3, 4, 5], 2, [True, True]),
        ([0, 1, 2, 3, 4, 5], 3, [False, False]),
        ([0, 0, 1, 2, 0, 1], 1, [True, False]),
        ([0, 1, 0, 1, 0, 0], 1, [True, True]),
        ([0, 1, 0, 1, 0, 0], 2, [True, True]),
        ([0, 0, 0, 0, 0, 0], 1, [False, False]),
    ):
        config = EpisodeConfig(num_ways=1, num_shots=shots, batch_size=6)
        sampler = EpisodeSampler(label, config, user=torch.tensor(users))
        assert sampler.can_be_asked.tolist() == [wanted]
        seen = torch.cat([sampler.batch_label(sampler.episode(number)) for number in range(60)])
        assert [bool((seen == value).any()) for value in (0, 1)] == wanted


def test_what_adaptation_and_prediction_cannot_use_is_refused():
    relation, row = RelationModule(1), torch.ones(4, 1)
    both = torch.tensor([0.0, 1.0])
    message = "no row can be predicted from examples of other users: .* predict without adapting f"
    with pytest.raises(ValueError, match=message):
        adapt_similarity(relation, row[:2], both)
    with pytest.raises(ValueError, match=message):
        adapt_similarity(relation, row, both.repeat(2), user=torch.zeros(4, dtype=torch.int64))
    for label, wrong in (
        ([0.0, 1.0, 2.0, 2.0], r"labelled 0 or 1, got 2 \(2 in all\)"),
        ([0.0, 1.0, math.nan, 1.0], "labelled 0 or 1, got nan"),
        ([1.0, 1.0, 1.0, 1.0], r"there is none of \[0\]"),
    ):
        with pytest.raises(ValueError, match=wrong):
            predict_few_shot(relation, row, row, torch.tensor(label))
        with pytest.raises(ValueError, match=wrong):
            adapt_similarity(relation, row, torch.tensor(label))
    with pytest.raises(ValueError, match="got 4 rows and 2 labels"):
        inspect.unwrap(predict_few_shot)(relation, row, row, both)
    with pytest.raises(ValueError, match="got 4 rows and 2 labels"):
        adapt_similarity.__wrapped__(relation, row, both)
    for label, user in ((LABEL, torch.arange(3)), (LABEL[:, 0], None)):
        with pytest.raises(ValueError, match="there must be one user a row: got labels"):
            EpisodeSampler.__init__.__wrapped__(EpisodeSampler(LABEL, CONFIG), label, CONFIG, user=user)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="2 of 3 tasks have 1 examples of each class, an episode needs 3"):
        EpisodeSampler(LABEL, EpisodeConfig(num_ways=3))
    with pytest.raises(ValueError, match="labels must be 0 or 1, or NaN"):
        EpisodeSampler(LABEL * 2, CONFIG)
    with pytest.raises(ValueError, match=r"there is none of \[0\]: give at least one of each"):
        predict_few_shot(PrototypeSimilarity(), torch.ones(1, 1), torch.ones(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match=r"there is none of \[0\]: give at least one of each"):
        adapt_similarity(PrototypeSimilarity(), torch.ones(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match=r"EpisodeConfig.num_shots must be a whole number of at least 1"):
        EpisodeConfig(num_shots=0)
    with pytest.raises(ValueError, match=r"AdaptConfig.learning_rate must be finite and at least 0"):
        AdaptConfig(learning_rate=-1.0)
