"""PTUM and SUMN: draws and losses by hand, padding without effect, a planted toy, no look ahead, breaks."""

import math
from dataclasses import replace

import pytest
import torch

from graphrec.encoders.item_text import ItemWords, fit_word_vocabulary, item_words, known_items
from graphrec.models.text_classifiers import LastItems, last_items
from graphrec.models.text_users import PTUM, SUMN, represent_texts
from graphrec.training.text_users import TextUserConfig, train_text_users
from samplers import EventHistorySampler
from tests.graphrec.toy_interests import BUY, DAY, END, NUM_GROUPS, gap, shop

FIT_UNTIL = END - 30 * DAY
USERS, TIME = torch.arange(24), torch.full((24,), FIT_UNTIL)
# items: "0 1", "2", "3 4", each of one life; a life of no item and one of five
WORDS = ItemWords(torch.tensor([0, 2, 3, 5]), torch.arange(5))
ITEMS = LastItems(torch.tensor([0, 0, 5, 9]), torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0]), WORDS)
CONFIG = TextUserConfig(epochs=40, batch_size=24, learning_rate=3e-2)
MODELS = {
    "PTUM": lambda num_words: PTUM(num_words, channels=8, num_blocks=1, num_heads=2),
    "SUMN": lambda num_words: SUMN(num_words, channels=8),
}


def model_of(name, num_words=5):
    torch.manual_seed(0)
    return MODELS[name](num_words)


def items_of(graph):
    words = item_words(graph)
    vocabulary = fit_word_vocabulary(words, known_items(graph, FIT_UNTIL), fit_until=FIT_UNTIL, min_count=1)
    events = EventHistorySampler(graph.csr(BUY)).sample(USERS, TIME)
    return last_items(events, vocabulary.encode(words)), len(vocabulary)


def trained(name, graph, config=CONFIG, **options):
    items, num_words = items_of(graph)
    model = model_of(name, num_words)
    before = represent_texts(model, items)
    curve = train_text_users(model, items, TIME, fit_until=FIT_UNTIL, config=config, log_every=5, **options)
    return model, items, before, curve


def test_what_ptum_is_trained_on():
    query = torch.tensor([1, 2])
    grid = ITEMS.padded(query)
    task = model_of("PTUM").draw(grid, query, random_seed=0, epoch=0)
    assert task.history.tolist() == [[1, 2, 3, 0, 0], [3, 3, 0, 0, 0]]
    assert task.target.tolist() == [[1, 2], [2, 1]]
    assert (task.masked < torch.tensor([3, 2])).all()
    positive = torch.cat([task.history.gather(1, task.masked[:, None]), task.target], dim=1)
    assert task.negatives.shape == (2, 3, 4)
    assert (task.negatives != positive[..., None]).all()
    assert set(task.negatives.flatten().tolist()) == {1, 2, 3}
    again = model_of("PTUM").draw(ITEMS.padded(query[1:]), query[1:], random_seed=0, epoch=0)
    assert again.masked[0] == task.masked[1]  # keyed by the query, whatever else is in the batch


def test_the_loss_of_ptum_by_hand():
    model = model_of("PTUM")
    query = torch.tensor([1, 2])
    task = model.draw(ITEMS.padded(query), query, random_seed=0, epoch=0)
    item = model.items(task.grid)
    mask = task.history != 0
    expected = 0.0
    for row in range(2):
        x = item[task.history].clone()
        plain = model.users(x, mask)[row].tolist()
        x[row, task.masked[row]] = model.hidden
        hidden = model.users(x, mask)[row].tolist()
        positive = [int(task.history[row, task.masked[row]]), *task.target[row].tolist()]
        for k in range(3):
            user = hidden if k == 0 else plain
            candidates = [positive[k], *task.negatives[row, k].tolist()]
            scores = [
                math.exp(sum(a * b for a, b in zip(user, item[c].tolist(), strict=True))) for c in candidates
            ]
            expected -= math.log(scores[0] / sum(scores)) / 2 / (1 if k == 0 else 2)
    torch.testing.assert_close(model.loss(task), torch.tensor(expected))


def test_the_loss_and_the_hops_of_sumn_by_hand():
    model = model_of("SUMN")
    query = torch.tensor([1, 2])
    task = model.draw(ITEMS.padded(query), query, random_seed=0, epoch=0)
    assert torch.equal(task.history + task.target, task.grid.item)
    assert ((task.history > 0).sum(1) >= 1).all()
    assert ((task.target > 0).sum(1) >= 1).all()
    item = model.items(task.grid)
    words = [[0, 1], [2], [3, 4]]
    expected = 0.0
    for row in range(2):
        x = item[task.history[row][task.history[row] > 0]]
        user = model.start
        for _ in range(3):
            weight = (model.key(x) @ user).softmax(0)
            user = torch.tanh(model.refine(torch.cat([user, weight @ x])))
        torch.testing.assert_close(model.users(item[task.history], task.history > 0)[row], user)
        share = model.output(user).softmax(0).tolist()
        later = [w for number in task.target[row].tolist() if number for w in words[number - 1]]
        expected -= sum(math.log(share[w]) for w in later) / len(later) / 2
    torch.testing.assert_close(model.loss(task), torch.tensor(expected))


@pytest.mark.parametrize("name", MODELS)
def test_vectors_do_not_depend_on_the_batch_and_every_weight_is_reached(name):
    model = model_of(name)
    together = represent_texts(model, ITEMS)
    torch.testing.assert_close(represent_texts(model, ITEMS, batch_size=1), together)
    assert torch.equal(together[0], torch.zeros(8))
    query = torch.tensor([1, 2])
    for epoch in range(4):
        model.loss(model.draw(ITEMS.padded(query), query, random_seed=0, epoch=epoch)).backward()
    for weight, parameter in model.named_parameters():
        assert parameter.grad is not None, weight
        assert parameter.grad.any(), weight


@pytest.mark.parametrize("name", MODELS)
def test_users_of_one_interest_group_come_together(name):
    graph = shop()
    config = replace(CONFIG, epochs=20) if name == "PTUM" else CONFIG
    model, items, before, curve = trained(name, graph, config)
    group = USERS % NUM_GROUPS
    after = represent_texts(model, items)
    assert gap(after, group) > gap(before, group) + 0.2
    assert curve[-1].loss < curve[0].loss
    assert model.fit_until == FIT_UNTIL


@pytest.mark.parametrize("name", MODELS)
def test_neither_a_break_nor_later_events_change_anything(name, tmp_path):
    graph, config = shop(), TextUserConfig(epochs=3, batch_size=10)
    whole, items, *_ = trained(name, graph, config)
    other, *_ = trained(name, shop(change_from=FIT_UNTIL), config)
    for weight, value in whole.named_parameters():
        assert torch.equal(other.get_parameter(weight), value), weight

    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise StopError

    path = tmp_path / "run.pt"
    with pytest.raises(StopError):
        trained(name, graph, config, checkpoint=path, checkpoint_every=2, on_step=stop)
    again, *_ = trained(name, graph, config, checkpoint=path, checkpoint_every=2)
    assert torch.equal(represent_texts(again, items), represent_texts(whole, items))


def test_what_cannot_be_trained_on_is_refused():
    model, time = model_of("SUMN"), torch.zeros(3, dtype=torch.int64)
    for given in (time[:2], time + 1):
        with pytest.raises(ValueError, match="each of 3 queries needs a time, none after fit_until=0"):
            train_text_users(model, ITEMS, given, fit_until=0, config=CONFIG)
    few = LastItems(torch.tensor([0, 1]), torch.tensor([0]), WORDS)
    with pytest.raises(ValueError, match="none of 1 queries has 2 items"):
        train_text_users(model, few, time[:1], fit_until=0, config=CONFIG)
