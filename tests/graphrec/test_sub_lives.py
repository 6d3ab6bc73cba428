"""SMEN's training and its place behind the contract: a planted toy, no look ahead, breaks, files."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from graphrec.encoders.bag_of_interests import InterestCounter
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import LIFE, SMENEncoder, read_bags, represent
from graphrec.training.contrastive import ContrastiveConfig
from graphrec.training.sub_lives import draw_sub_lives, load_smen, save_smen, train_smen
from tests.graphrec.toy_interests import BUY, DAY, END, NUM_GROUPS, START, gap, shop

ITEMS_EACH = 40  # so many that two users of a group have few items in common
NUM_ITEMS = NUM_GROUPS * ITEMS_EACH
USERS = torch.arange(24)
FIT_UNTIL = END - 30 * DAY
CONFIG = ContrastiveConfig(epochs=20, batch_size=24, learning_rate=2e-2)
SHORT = replace(CONFIG, epochs=3, batch_size=10)


def encoder_of(scales=("month", "year"), channels=16):
    items = ItemInterests(
        interest=torch.arange(NUM_ITEMS + 1)[:, None],
        weight=torch.ones(NUM_ITEMS + 1, 1),
        num_interests=NUM_ITEMS + 1,
        fit_until=FIT_UNTIL,
    )
    counter = InterestCounter(items=items, clock=LocalClock.of_zone("+00:00"), scales=scales)
    torch.manual_seed(0)
    smen = SMEN(NUM_ITEMS + 1, num_anchors=3, channels=channels, num_scales=len(scales))
    return SMENEncoder(counter, smen, [BUY])


def trained(graph, config=CONFIG, **options):
    encoder = encoder_of()
    reader = InputReader(graph, "user", encoder.requests)
    time = torch.full((24,), FIT_UNTIL)
    bag = read_bags(reader, encoder, USERS, time)
    before = represent(encoder.smen, bag)
    train_smen(encoder.smen, bag, USERS, time, fit_until=FIT_UNTIL, config=config, **options)
    return encoder, reader, bag, before


@pytest.fixture(scope="module")
def done():
    """A trained encoder; nobody changes it."""
    return trained(shop(items_each=ITEMS_EACH))


def test_users_of_one_interest_group_come_together(done):
    encoder, _, bag, before = done
    group = USERS % NUM_GROUPS
    assert gap(before, group) < 0.3
    assert gap(represent(encoder.smen, bag), group) > 0.45
    assert encoder.smen.fit_until == FIT_UNTIL


def test_every_part_of_a_life_is_equally_likely():
    encoder = encoder_of()
    reader = InputReader(shop(items_each=ITEMS_EACH), "user", encoder.requests)
    first = START + 95 * DAY
    bag = read_bags(reader, encoder, torch.zeros(900, dtype=torch.int64), torch.full((900,), first))
    num_cells = int(bag.num_cells[0])
    assert num_cells in (3, 4)
    parts = draw_sub_lives(bag, torch.arange(900), random_seed=0, epoch=0, view=0)
    ends = parts.period[parts.query_ptr[1:] - 1, 0]
    count = Counter(zip(parts.period[parts.query_ptr[:-1], 0].tolist(), ends.tolist(), strict=True))
    periods = bag.period[:num_cells, 0].tolist()
    assert set(count) == {(a, b) for a in periods for b in periods if a <= b}
    expected = 900 / len(count)
    assert all(0.7 * expected < number < 1.3 * expected for number in count.values())
    other = draw_sub_lives(bag, torch.arange(900), random_seed=0, epoch=0, view=1)
    assert not torch.equal(other.query_ptr, parts.query_ptr)
    again = draw_sub_lives(bag, torch.arange(900).flip(0), random_seed=0, epoch=0, view=0)
    assert torch.equal(again.num_cells.flip(0), parts.num_cells)


def test_later_events_change_no_weight_and_no_earlier_vector(done):
    encoder, reader, *_ = done
    other, other_reader, *_ = trained(shop(items_each=ITEMS_EACH, change_from=FIT_UNTIL))
    for name, value in encoder.named_parameters():
        assert torch.equal(other.get_parameter(name), value), name

    def vectors(encoder, reader, time):
        with torch.no_grad():
            return encoder(encoder.prepare(reader.read(USERS, torch.full((24,), time))))

    before = vectors(encoder, reader, FIT_UNTIL)
    assert torch.equal(vectors(other, other_reader, FIT_UNTIL), before)
    assert not torch.equal(vectors(other, other_reader, END), vectors(encoder, reader, END))


def test_the_contract(done):
    encoder, reader, bag, _ = done
    assert list(encoder.requests) == [LIFE]
    time = torch.full((24,), FIT_UNTIL)
    with torch.no_grad():
        found = encoder(encoder.prepare(reader.read(USERS, time)))
        backwards = encoder(encoder.prepare(reader.read(USERS.flip(0), time)))
        # nobody has done anything before the first day
        nothing = encoder(encoder.prepare(reader.read(USERS, torch.full((24,), START))))
    assert found.shape == (24, encoder.out_channels) == (24, 48)
    torch.testing.assert_close(backwards.flip(0), found)
    torch.testing.assert_close(represent(encoder.smen, bag, batch_size=7), found)
    assert torch.equal(nothing, torch.zeros(24, 48))
    in_parts = read_bags(reader, encoder, USERS, time, max_events=50)
    assert torch.equal(in_parts.interest, bag.interest)
    assert torch.equal(in_parts.query_ptr, bag.query_ptr)
    window = SMENEncoder(encoder.counter, encoder.smen, [BUY], window=30 * DAY)
    recent = window.prepare(InputReader(reader.graph, "user", window.requests).read(USERS, time))
    assert 0 < float(recent.count.sum()) < float(bag.count.sum())
    encoder.check_before(FIT_UNTIL)
    with pytest.raises(ValueError, match=f"until {FIT_UNTIL}, labels begin at {FIT_UNTIL - 1}"):
        encoder.check_before(FIT_UNTIL - 1)


def test_a_break_changes_nothing_and_files_come_back(tmp_path):
    graph = shop(items_each=ITEMS_EACH)
    torch.manual_seed(5)
    whole, _, bag, _ = trained(graph, SHORT)

    class StopError(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise StopError

    with pytest.raises(StopError):
        trained(graph, SHORT, checkpoint=tmp_path / "run.pt", checkpoint_every=2, on_step=stop)
    again, *_ = trained(graph, SHORT, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    assert torch.equal(represent(again.smen, bag), represent(whole.smen, bag))
    other = encoder_of(channels=8).smen
    time = torch.full((24,), FIT_UNTIL)
    with pytest.raises(ValueError, match=r"another run: channels is 8, the checkpoint has 16"):
        train_smen(other, bag, USERS, time, fit_until=FIT_UNTIL, config=SHORT, checkpoint=tmp_path / "run.pt")
    save_smen(tmp_path / "smen.pt", whole.smen)
    loaded = load_smen(tmp_path / "smen.pt", label_start=FIT_UNTIL)
    assert torch.equal(represent(loaded, bag), represent(whole.smen, bag))
    with pytest.raises(ValueError, match=f"user representation was pre-trained on data until {FIT_UNTIL}"):
        load_smen(tmp_path / "smen.pt", label_start=FIT_UNTIL - 1)
    late = encoder_of().smen
    late.fit_until = FIT_UNTIL + 1
    with pytest.raises(ValueError, match="delete the checkpoint"):
        late.load_state_dict(whole.smen.state_dict())


def test_what_cannot_be_trained_on_is_refused(done):
    encoder, reader, bag, _ = done
    time = torch.full((24,), FIT_UNTIL)
    smen = encoder_of().smen
    with pytest.raises(ValueError, match="24 lives, 23 users, 23 times"):
        train_smen(smen, bag, USERS[:23], time[:23], fit_until=FIT_UNTIL, config=SHORT)
    with pytest.raises(ValueError, match=f"24 of 24 query times lie after fit_until={FIT_UNTIL - 1}"):
        train_smen(smen, bag, USERS, time, fit_until=FIT_UNTIL - 1, config=SHORT)
    short = read_bags(reader, encoder, USERS, torch.full((24,), START + 20 * DAY))
    with pytest.raises(ValueError, match="none of 24 lives has events in two periods"):
        train_smen(smen, short, USERS, time, fit_until=FIT_UNTIL, config=SHORT)
    with pytest.raises(
        ValueError, match="the counter has 121 interests and 1 scales, the model reads 121 and 2"
    ):
        SMENEncoder(encoder_of(scales=("year",)).counter, smen, [BUY])
    with pytest.raises(ValueError, match="no query to read a history for"):
        read_bags(reader, encoder, USERS[:0], time[:0])
    assert smen.fit_until is None
