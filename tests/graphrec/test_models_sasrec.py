"""SASRec's encoder against loops over events, and the click model around it."""

import pytest
import torch
from torch.nn import functional

from graphrec.models.sasrec import SASRecRanker
from graphrec.nn.self_attention import SASRecBlock, SASRecEncoder
from graphrec.training.batches import collate
from tests.graphrec.test_models_sequences import data_of
from tests.graphrec.toy_data import sizes


def randomized(module, seed=0):
    """Other weights than those that stand at zero or one in the beginning."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.eval().double()


def slow_block(block, events):
    """``events``: vectors of one row, the oldest first; each attends to itself and those before it."""
    channels = events[0].shape[0]
    size = channels // block.num_heads
    normal = [block.norm_events(event) for event in events]
    query, key, value = (
        [lin(event) for event in normal] for lin in (block.lin_query, block.lin_key, block.lin_value)
    )
    result = []
    for q in range(len(events)):
        heads = []
        for h in range(block.num_heads):
            part = slice(h * size, (h + 1) * size)
            weight = [(query[q][part] @ key[k][part] / size**0.5).exp() for k in range(q + 1)]
            heads.append(sum(w * value[k][part] for k, w in enumerate(weight)) / sum(weight))
        gathered = events[q] + torch.cat(heads)
        inner = block.lin_inner(block.norm_gathered(gathered)).clamp(min=0)
        result.append(gathered + block.lin_outer(inner))
    return result


@pytest.mark.parametrize("num_heads", [1, 3])
def test_encoder_is_the_slow_one_for_every_length(num_heads):
    channels, length = 6, 5
    encoder = randomized(SASRecEncoder(channels, length, num_blocks=2, num_heads=num_heads))
    x = torch.randn(length + 1, 4, channels, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([0, 1, 2, 3, 4, 4])[:, None]
    found = encoder(x, mask)
    for row in range(len(x)):
        known = int(mask[row].sum())
        if not known:
            assert found[row].eq(0).all()
            continue
        events = [x[row, j] * channels**0.5 + encoder.place[j] for j in reversed(range(known))]
        for block in encoder.blocks:
            events = slow_block(block, events)
        torch.testing.assert_close(found[row], encoder.norm(events[-1]))


def test_padding_and_longer_padding_change_nothing():
    encoder = randomized(SASRecEncoder(4, 7))
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([2, 5, 1])[:, None]
    found = encoder(x, mask)
    changed = torch.where(mask[..., None], x, 1e6)
    torch.testing.assert_close(found, encoder(changed, mask))
    longer = functional.pad(x, (0, 0, 0, 2), value=9.0)
    torch.testing.assert_close(found, encoder(longer, functional.pad(mask, (0, 2))))


def test_a_later_event_never_reaches_an_earlier_one():
    block = randomized(SASRecBlock(4))
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    mask = torch.ones(1, 5, dtype=torch.bool)
    changed = x.clone()
    changed[0, 1, 2] += 1.0
    differs = (block(x, mask) != block(changed, mask)).any(dim=-1)[0]
    assert differs.tolist() == [True, True, False, False, False]  # the most recent event stands first


def test_ranker_adds_the_product_of_user_and_target_to_the_head():
    batch = collate(data_of(), torch.arange(60, 120))
    model = SASRecRanker(sizes(0), sequences=("internal", "external"), length=6, channels=4, num_heads=2)
    model = randomized(model).float()
    fields, linear = model.embed(batch)
    target = model.item_projection(model.target(fields).flatten(1))
    extra, product = [], 0.0
    for number, name in enumerate(("internal", "external")):
        sequence = batch.sequences[name]
        vectors = model.item_projection(model.item_vectors(sequence).flatten(1))[sequence.item_row]
        user = model.encoders[name](vectors, sequence.mask)
        product = product + model.product_weight[number] * (user * target).sum(dim=1)
        extra.append(model.user_projection(user))
    fields = torch.cat([fields, torch.stack(extra, dim=1)], dim=1)
    expected = model.head(fields, linear, batch.dense[:, : model.dense]) + product
    torch.testing.assert_close(model(batch), expected)
    model(batch).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoders.parameters())


def test_errors_name_what_was_wanted():
    with pytest.raises(ValueError, match="name of at least one sequence"):
        SASRecRanker(sizes(0), sequences=(), length=6)
    with pytest.raises(ValueError, match="multiple of num_heads=3"):
        SASRecBlock(4, num_heads=3)
    encoder = SASRecEncoder(4, 2)
    with pytest.raises(ValueError, match="2 places, the sequences 3 events"):
        encoder(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
