"""Sequences of past events in a batch: a slow reference, no leak, merged edge types, empty ones."""

import math
from dataclasses import replace

import pytest
import torch

from graphrec.models import DeepFMRanker, DINRanker
from graphrec.training.batches import ItemSequences, collate
from samplers import TemporalCSR
from tests.graphrec.toy_data import (
    CLICK,
    HOUR,
    NUM_ITEMS,
    NUM_USERS,
    SKIP,
    click_data,
    graph_of,
    sizes,
    toy_log,
)

LOG = toy_log()
REVERSE = {True: ("item", f"rev_{CLICK[1]}", "user"), False: ("item", f"rev_{SKIP[1]}", "user")}


def sequences_of(log, length=6):
    """What is clicked, and what is shown (clicked or not)."""
    csrs = graph_of(log)
    return {
        "internal": ItemSequences(csrs={REVERSE[True]: csrs[REVERSE[True]]}, length=length),
        "external": ItemSequences(csrs={e: csrs[e] for e in REVERSE.values()}, length=length - 2),
    }


def data_of(log=LOG, events=LOG, **options):
    data = click_data(log, events=events)
    return replace(data.with_graph(None), sequences=sequences_of(events, **options))


def past_items(user, as_of, clicked, length, log=LOG):
    """(item, time) of a user's events before ``as_of``, the most recent first; clicks first at one time."""
    number = {True: 0, False: 0}
    found = []
    for row_user, item, time, row_clicked in log.rows:
        if row_user == user and time < as_of and row_clicked in clicked:
            found.append((-time, not row_clicked, -number[row_clicked], item))
        number[row_clicked] += 1
    return [(item, -time) for time, _, _, item in sorted(found)][:length]


def test_sequences_are_the_most_recent_events_before_the_period():
    data = data_of()
    rows = torch.arange(0, 520, 7)
    batch = collate(data, rows)
    kinds = {"internal": ({True}, 6), "external": ({True, False}, 4)}
    assert set(batch.sequences) == set(kinds)
    hidden = lengths = 0
    for name, (clicked, length) in kinds.items():
        sequence = batch.sequences[name]
        assert sequence.mask.shape == sequence.age.shape == (len(rows), length)
        assert sequence.item_id.tolist() == sorted(set(sequence.item_id.tolist()))
        assert torch.equal(sequence.item.codes, data.item_fields.codes[sequence.item_id])
        assert torch.equal(sequence.item.bag, data.item_fields.bag[sequence.item_id])
        for i, row in enumerate(rows.tolist()):
            user, as_of = LOG.rows[row][0], int(data.as_of[row])
            expected = past_items(user, as_of, clicked, length)
            mask = sequence.mask[i]
            assert mask.tolist() == [slot < len(expected) for slot in range(length)]
            items = sequence.item_id[sequence.item_row[i][mask]].tolist()
            assert items == [item for item, _ in expected]
            ages = [math.log1p((as_of - time) / HOUR) / 5 for _, time in expected]
            assert sequence.age[i][mask].tolist() == pytest.approx(ages, abs=1e-6)
            assert sequence.age[i][~mask].eq(0).all()
            hidden += expected != past_items(user, LOG.rows[row][2] + 1, clicked, length)
            lengths += 0 < len(expected) < length
    assert hidden > 5  # events of the same period: known at the query, not as of its start
    assert lengths > 5


def model_of(name, num_dense):
    torch.manual_seed(0)
    options = {"channels": 6, "hidden_channels": (11, 7), "sequences": ("internal", "external")}
    if name == "DIN":
        model = DINRanker(sizes(num_dense), read_age=True, **options)
    else:
        model = DeepFMRanker(sizes(num_dense), **options)
    with torch.no_grad():  # fresh tables are so narrow that a difference would not show
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("name", ["DIN", "DeepFM"])
def test_events_at_or_after_the_query_change_nothing(name):
    data = data_of()
    rows = torch.arange(300, 330)
    as_of = int(data.as_of[rows].max())
    later = [
        (u, i, as_of + t, c) for t in (0, 1, 50) for u in range(NUM_USERS) for i in (0, 5) for c in (0, 1)
    ]
    later = [(u, i, t, bool(c)) for u, i, t, c in later]
    planted = replace(data, sequences=sequences_of(LOG.with_rows(*later)))
    latest = rows[data.as_of[rows] == as_of]
    model = model_of(name, data.dense.shape[1])
    before, after = collate(data, latest), collate(planted, latest)
    for kind in before.sequences:
        left, right = before.sequences[kind], after.sequences[kind]
        assert torch.equal(left.mask, right.mask)
        assert torch.equal(left.age, right.age)
        for i in range(len(latest)):
            one, other = left.item_id[left.item_row[i]], right.item_id[right.item_row[i]]
            assert torch.equal(one[left.mask[i]], other[left.mask[i]])
    torch.testing.assert_close(model(after), model(before), rtol=0, atol=1e-6)
    # one unit of time earlier it is seen
    seen = [(u, i, as_of - 1, c) for u, i, t, c in later if t == as_of]
    leaked = collate(replace(data, sequences=sequences_of(LOG.with_rows(*seen))), latest)
    assert not torch.allclose(model(leaked), model(before), atol=1e-3)


def test_late_events_are_not_seen_before_they_are_known():
    """Where the graph says when an event was known, that time counts."""
    index = torch.tensor([[3, 3], [1, 2]])
    csr = TemporalCSR.from_edge_index(
        index,
        torch.tensor([10, 20]),
        num_rows=NUM_USERS + 1,
        num_cols=NUM_ITEMS + 1,
        row="source",
        available_time=torch.tensor([500, 20]),
    )
    data = data_of()
    impressions = replace(data.impressions, user=torch.full_like(data.impressions.user, 3))
    sequence = ItemSequences(csrs={REVERSE[True]: csr}, length=3)
    data = replace(data, impressions=impressions, sequences={"late": sequence})
    for row in range(0, 520, 9):
        as_of = int(data.as_of[row])
        found = collate(data, torch.tensor([row])).sequences["late"]
        expected = [item for item, known in ((2, 20), (1, 500)) if known < as_of]
        assert found.item_id[found.item_row[found.mask]].tolist() == expected


def test_events_at_time_zero_and_before_stand_before_the_padding():
    """Padding comes last whatever the times are, also that of an edge type without any event."""
    sizes_of_graph = {"num_rows": NUM_USERS + 1, "num_cols": NUM_ITEMS + 1, "row": "source"}
    none = torch.zeros(2, 0, dtype=torch.int64)
    index, time = torch.tensor([[3, 3, 3], [4, 5, 6]]), torch.tensor([0, -7, -9])
    csrs = {
        REVERSE[True]: TemporalCSR.from_edge_index(none, none[0], **sizes_of_graph),
        REVERSE[False]: TemporalCSR.from_edge_index(index, time, **sizes_of_graph),
    }
    data = data_of()
    impressions = replace(data.impressions, user=torch.full_like(data.impressions.user, 3))
    sequence = ItemSequences(csrs=csrs, length=4)
    data = replace(data, impressions=impressions, sequences={"old": sequence})
    found = collate(data, torch.tensor([519])).sequences["old"]
    assert found.mask.tolist() == [[True, True, True, False]]
    assert found.item_id[found.item_row[found.mask]].tolist() == [4, 5, 6]


@pytest.mark.parametrize("name", ["DIN", "DeepFM"])
def test_what_padding_holds_has_no_effect(name):
    data = data_of()
    batch = collate(data, torch.arange(40, 90))
    changed = {}
    for kind, sequence in batch.sequences.items():
        assert not sequence.mask.all()
        other = torch.randint(0, len(sequence.item_id), sequence.item_row.shape)
        changed[kind] = replace(
            sequence,
            item_row=sequence.item_row.where(sequence.mask, other),
            age=sequence.age.where(sequence.mask, 77.0),
        )
    model = model_of(name, data.dense.shape[1])
    torch.testing.assert_close(model(replace(batch, sequences=changed)), model(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["DIN", "DeepFM"])
def test_a_user_without_past_is_scored_as_if_no_sequence_was_there(name):
    """Empty sequences are zero fields; so is the batch in which every user is unseen."""
    data = data_of()
    nobody = torch.full_like(data.impressions.user, NUM_USERS)
    data = replace(data, impressions=replace(data.impressions, user=nobody))
    batch = collate(data, torch.arange(500, 510))
    assert not any(sequence.mask.any() for sequence in batch.sequences.values())
    model = model_of(name, data.dense.shape[1])
    fields, linear = model.embed(batch)
    zeros = torch.zeros(10, 2 * model.num_item_fields, 6)
    expected = model.head(torch.cat([fields, zeros], dim=1), linear, batch.dense)
    torch.testing.assert_close(model(batch), expected)


def test_pooled_fields_are_the_means_of_the_past_items():
    data = data_of()
    batch = collate(data, torch.arange(20, 60))
    model = model_of("DeepFM", data.dense.shape[1])
    sequence = batch.sequences["external"]
    assert set(sequence.mask.sum(dim=1).tolist()) >= {0, 1, 2, 4}
    pooled = model._mean_item(batch, "external")
    target = model.target(model.embed(batch)[0])
    for i in range(40):
        items = sequence.item_id[sequence.item_row[i][sequence.mask[i]]]
        vectors = []
        for item in items.tolist():
            bag = data.item_fields.bag[item : item + 1]
            fields, _ = model.item_fields(data.item_fields.codes[item : item + 1], bag)
            vectors.append(torch.cat([fields[0], model.other_fields.table.weight[item][None]]))
        expected = torch.stack(vectors).mean(dim=0) if vectors else torch.zeros(3, 6)
        torch.testing.assert_close(pooled[i], expected)
    # the target's part of the fields has the same order
    seen = batch.item_id[0].item()
    assert torch.equal(target[0, -1], model.other_fields.table.weight[seen])
    assert torch.equal(target[0, 0], model.item_fields.table.weight[batch.item.codes[0, 0]])


def test_the_age_is_read_only_where_asked_for():
    data = data_of()
    batch = collate(data, torch.arange(300, 320))
    older = {name: replace(s, age=s.age + 0.5) for name, s in batch.sequences.items()}
    model = model_of("DIN", data.dense.shape[1])
    assert not torch.allclose(model(batch), model(replace(batch, sequences=older)))
    plain = DINRanker(sizes(data.dense.shape[1]), sequences=("internal",))
    assert torch.equal(plain(batch), plain(replace(batch, sequences=older)))


def test_batches_move_with_their_sequences():
    batch = collate(data_of(), torch.arange(9))
    moved = batch.to("meta")
    assert {s.mask.device.type for s in moved.sequences.values()} == {"meta"}
    assert {s.item.codes.device.type for s in moved.sequences.values()} == {"meta"}
    assert moved.user_id.device.type == "meta"
    plain = collate(replace(data_of(), sequences=None), torch.arange(9)).to("cpu")
    assert plain.sequences is None


def test_mistakes_are_told():
    data = data_of()
    batch = collate(data, torch.arange(5))
    other = DINRanker(sizes(data.dense.shape[1]), sequences=("hourly",))
    with pytest.raises(ValueError, match=r"'hourly'.*\['internal', 'external'\]"):
        other(batch)
    with pytest.raises(ValueError, match="the batch has \\[\\]"):
        model_of("DeepFM", data.dense.shape[1])(replace(batch, sequences=None))
    with pytest.raises(ValueError, match="at least one sequence"):
        DINRanker(sizes(0), sequences=())
    csrs = graph_of(LOG)
    with pytest.raises(ValueError, match="into users"):
        ItemSequences(csrs={CLICK: csrs[CLICK]}, length=3)
    with pytest.raises(ValueError, match="length=0"):
        ItemSequences(csrs={REVERSE[True]: csrs[REVERSE[True]]}, length=0)
    with pytest.raises(ValueError, match="an edge type"):
        ItemSequences(csrs={}, length=3)
