"""word2vec over users' items: planted neighbours, the start of a table, nothing from later."""

import pytest
import torch
from torch.nn import functional

from graphrec.encoders.behavior_sequences import SequenceSizes
from graphrec.encoders.dupn import DUPN
from graphrec.encoders.sentences import FIRST
from graphrec.models.item_word2vec import ItemWord2VecConfig, fit_item_vectors, start_items_from
from samplers import EventHistory

NUM_ITEMS = 9
CONFIG = ItemWord2VecConfig(channels=6, window=2, epochs=30, learning_rate=0.1)


def history(num_users=60, length=8):
    """Users who stay within one of two groups of four items; item 8 is nobody's, item 9 beyond the table."""
    generator = torch.Generator().manual_seed(0)
    item = (
        torch.randint(0, 4, (num_users, length), generator=generator)
        + 4 * (torch.arange(num_users) % 2)[:, None]
    )
    item[:, 3] = 9
    ptr = torch.arange(num_users + 1) * length
    return EventHistory(ptr, item.flatten(), torch.arange(item.numel()), torch.arange(item.numel()))


@pytest.fixture(scope="module")
def vectors():
    return fit_item_vectors(history(), NUM_ITEMS, fit_until=480, config=CONFIG)


def test_items_of_one_group_are_near_each_other(vectors):
    vector = functional.normalize(vectors.vector[:8], dim=1)
    cosine = vector @ vector.T
    group = torch.arange(8) // 4
    same = (group[:, None] == group) & ~torch.eye(8, dtype=torch.bool)
    assert cosine[same].mean() > cosine[group[:, None] != group].mean() + 0.3
    assert vectors.is_known.tolist() == [True] * 8 + [False]
    assert not vectors.vector[8].any()
    again = fit_item_vectors(history(), NUM_ITEMS, fit_until=480, config=CONFIG)
    assert torch.equal(again.vector, vectors.vector)


def make_dupn(channels=6):
    torch.manual_seed(0)
    sizes = SequenceSizes(item=(FIRST + NUM_ITEMS, 4), properties=(3,))
    return DUPN(sizes, item_channels=[channels, 3], property_channels=2, hidden_channels=4, user_channels=3)


def test_a_table_starts_from_the_vectors(vectors):
    model, plain = make_dupn(), make_dupn()
    start_items_from(model, vectors)
    table, before = (one.item.tables[0].weight for one in (model, plain))
    assert torch.equal(table[FIRST : FIRST + 8], vectors.vector[:8])
    kept = [*range(FIRST), FIRST + 8]
    assert torch.equal(table[kept], before[kept])
    assert torch.equal(model.item.tables[1].weight, plain.item.tables[1].weight)
    assert model.fit_until == 480
    with pytest.raises(ValueError, match="pre-trained on data until 480, labels begin at"):
        model.check_before(479)
    with pytest.raises(ValueError, match=r"first table is \(11, 5\), the vectors need \(11, 6\)"):
        start_items_from(make_dupn(5), vectors)


def test_errors():
    with pytest.raises(ValueError, match="80 events lie at or after fit_until=400"):
        fit_item_vectors(history(), NUM_ITEMS, fit_until=400, config=CONFIG)
    with pytest.raises(ValueError, match="no event is of the first 0 items"):
        fit_item_vectors(history(), 0, fit_until=480, config=CONFIG)
    with pytest.raises(ValueError, match="channels must be a whole number"):
        ItemWord2VecConfig(channels=0)
