"""Preference vectors: scores by hand, no look ahead, resume, unknown IDs, ensembles, inputs of a head."""

from dataclasses import replace

import pytest
import torch

from graphrec.models import DeepFMRanker
from graphrec.models.preference_fields import PreferenceFields
from graphrec.models.two_tower import TwoTower, preference_score
from graphrec.training.batches import collate
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import click_loss
from graphrec.training.preference import (
    Exposures,
    PreferenceConfig,
    _encode,
    _fit,
    _make_member,
    train_preference,
)
from tests.graphrec.toy_data import (
    DAY,
    DAYS,
    NUM_ITEMS,
    NUM_USERS,
    click_data,
    full_lsttm,
    node_fields,
    same,
    sizes,
    toy_log,
)

CPU = torch.device("cpu")
CONFIG = PreferenceConfig(
    channels=4, embedding_channels=3, hidden_channels=8, num_members=2, batch_size=32, id_dropout=0.1
)
FIELDS = dict(zip(("user", "item"), node_fields(), strict=True))
SIZES = replace(sizes(0), num_users=NUM_USERS)


def exposures_of(log):
    user, item, time = log.columns()
    return Exposures(user, item, torch.tensor([float(row[3]) for row in log.rows]), time)


def fit(log=None, config=CONFIG, days=DAYS, exposures=None, **options):
    found = exposures_of(toy_log() if log is None else log) if exposures is None else exposures
    return train_preference(found, FIELDS, SIZES, days, config, device=CPU, **options)


@pytest.fixture(scope="module")
def undisturbed():
    return fit()


# ---- the towers ----------------------------------------------------------------------------------


def slow_vector(model, kind, node_id, codes, bag):
    """Vector and bias of one node by the definition, field by field."""
    embedding, tower = model.fields[kind], model.tower[kind]
    rows, start = [], 0
    for code, size in zip([node_id, *codes], embedding.num_categories, strict=True):
        rows.append(start + code)
        start += size
    vectors = [embedding.table.weight[row] for row in rows]
    first_order = sum(embedding.linear.weight[row, 0] for row in rows)
    if kind == "item":
        values = [start + value for value in bag if value > 0]
        share = 1 / max(len(values), 1)
        vectors.append(sum((share * embedding.table.weight[row] for row in values), torch.zeros(3)))
        first_order = first_order + sum(share * embedding.linear.weight[row, 0] for row in values)
    hidden = torch.relu(tower[0].weight @ torch.cat(vectors) + tower[0].bias)
    out = tower[2].weight @ hidden + tower[2].bias
    return out[:-1], out[-1] + first_order


def test_scores_equal_the_definition():
    torch.manual_seed(3)
    model = TwoTower(SIZES, channels=4, embedding_channels=3, hidden_channels=5)
    for embedding in model.fields.values():
        torch.nn.init.normal_(embedding.linear.weight)
    user, item = torch.tensor([0, 7, NUM_USERS, 7]), torch.tensor([4, NUM_ITEMS, 2, 6])
    encoded = {
        "user": model.encode("user", user, FIELDS["user"][user]),
        "item": model.encode("item", item, FIELDS["item"][item]),
    }
    scores = preference_score(encoded["user"], encoded["item"])
    for i, (u, v) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
        left, left_bias = slow_vector(model, "user", u, FIELDS["user"].codes[u].tolist(), [])
        right, right_bias = slow_vector(
            model, "item", v, FIELDS["item"].codes[v].tolist(), FIELDS["item"].bag[v].tolist()
        )
        torch.testing.assert_close(scores[i], left @ right + left_bias + right_bias)
    assert model.unknown_id == {"user": NUM_USERS, "item": NUM_ITEMS}


def test_liked_items_score_above_the_others():
    config = replace(CONFIG, epochs=30, learning_rate=0.02, num_members=1, weight_decay=0.0)
    snapshots, losses = fit(config=config)
    user, item = snapshots.vectors["user"][-1, :-1], snapshots.vectors["item"][-1, :-1]
    score = preference_score(user.repeat_interleave(NUM_ITEMS, dim=0), item.repeat(NUM_USERS, 1))
    # the planted taste: items of the user's own parity, liked at 0.8 against 0.15
    own = torch.arange(NUM_USERS)[:, None] % 2 == torch.arange(NUM_ITEMS) % 2
    assert ((score > 0) == own.flatten()).float().mean() > 0.95
    assert 0 < losses[-1] < losses[1]


# ---- by day --------------------------------------------------------------------------------------


def test_a_day_is_unchanged_by_exposures_known_at_or_after_it(undisturbed):
    later = ((2, 3, 2 * DAY, True), (2, 3, 2 * DAY + 1, False), (5, 4, 2 * DAY + 9, True))
    changed, losses = fit(toy_log().with_rows(*later))
    for name, vectors in undisturbed[0].vectors.items():
        assert torch.equal(changed.vectors[name][:3], vectors[:3]), name
        assert not torch.equal(changed.vectors[name][3], vectors[3]), name
    assert losses[:3] == undisturbed[1][:3]
    assert losses[3] != undisturbed[1][3]


def test_an_exposure_counts_from_the_day_after_it_is_known(undisturbed):
    before, _ = fit(toy_log().with_rows((2, 3, 2 * DAY - 1, True)))
    for name, vectors in undisturbed[0].vectors.items():
        assert torch.equal(before.vectors[name][:2], vectors[:2]), name
        assert not torch.equal(before.vectors[name][2], vectors[2]), name


def test_vectors_are_zero_until_something_is_known(undisturbed):
    snapshots, losses = undisturbed
    assert torch.equal(snapshots.time, torch.tensor(DAYS))
    assert losses[0] == 0
    assert min(losses[1:]) > 0
    for name, count in (("user", NUM_USERS + 1), ("item", NUM_ITEMS + 1)):
        vectors = snapshots.vectors[name]
        assert vectors.shape == (len(DAYS), count, 2 * 4 + 1)
        assert vectors[0].eq(0).all()
        assert vectors[1:].ne(0).all()
        assert vectors.isfinite().all()


def test_few_new_exposures_are_an_update_and_many_a_refit():
    days = [2 * DAY, 3 * DAY]
    no_update = replace(CONFIG, update_epochs=0)
    updated, losses = fit(days=days, config=replace(no_update, refit_share=0.9))
    assert losses[1] == 0
    assert all(torch.equal(vectors[0], vectors[1]) for vectors in updated.vectors.values())
    refitted, losses = fit(days=days, config=replace(no_update, refit_share=0.1))
    assert losses[1] > 0
    assert not any(torch.equal(vectors[0], vectors[1]) for vectors in refitted.vectors.values())


@pytest.mark.parametrize("refit_share", [0.9, 0.1])
def test_an_update_reads_the_new_exposures_alone_and_a_refit_all(tmp_path, refit_share):
    config, days = replace(CONFIG, refit_share=refit_share), [2 * DAY, 3 * DAY]
    exposures = exposures_of(toy_log())
    is_old = exposures.known_time < 2 * DAY
    flipped = replace(exposures, label=torch.where(is_old, 1 - exposures.label, exposures.label))
    path = tmp_path / "preference.pt"
    fit(days=days[:1], config=config, checkpoint=path)
    goes_on, _ = fit(days=days, config=config, exposures=flipped, checkpoint=path)
    expected, _ = fit(days=days, config=config)
    is_equal = torch.equal(goes_on.vectors["user"], expected.vectors["user"])
    assert is_equal == (refit_share == 0.9)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_run_ends_as_one_without_a_break(undisturbed, tmp_path, cut):
    def stop(done, total):
        if done == cut:
            raise InterruptedError

    path = tmp_path / "preference.pt"
    with pytest.raises(InterruptedError):
        fit(checkpoint=path, on_step=stop)
    steps = []
    resumed, losses = fit(checkpoint=path, on_step=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 4) for done in range(cut + 1, 5)]
    assert losses == undisturbed[1]
    for name, vectors in undisturbed[0].vectors.items():
        assert torch.equal(resumed.vectors[name], vectors), name


def test_seeds(undisturbed):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    again, other = fit(), fit(config=replace(CONFIG, random_seed=1))
    assert torch.equal(torch.rand(3), expected), "the global generator is left alone"
    for name, vectors in undisturbed[0].vectors.items():
        assert torch.equal(again[0].vectors[name], vectors), name
        assert not torch.equal(other[0].vectors[name][1:], vectors[1:]), name


def test_bad_arguments():
    exposures = exposures_of(toy_log())
    with pytest.raises(ValueError, match="there are none: leave the option `preference` out"):
        fit(exposures=exposures.select(exposures.known_time < 0))
    with pytest.raises(ValueError, match="ascending and distinct"):
        fit(days=[DAY, 0])
    with pytest.raises(ValueError, match="num_members and epochs must be at least 1"):
        PreferenceConfig(num_members=0)
    with pytest.raises(ValueError, match=r"id_dropout must lie in \[0, 1\), got 1"):
        PreferenceConfig(id_dropout=1.0)


# ---- unknown IDs, ensembles ----------------------------------------------------------------------


def test_nodes_without_exposures_are_unknown_ids_with_their_own_fields():
    exposures = exposures_of(toy_log())
    shown = exposures.select((exposures.user % 4 != 1) & (exposures.item != 7))
    codes = FIELDS["user"].codes.clone()
    codes[5], codes[6], codes[-1] = codes[1], codes[2], codes[1]
    fields = {**FIELDS, "user": replace(FIELDS["user"], codes=codes)}
    snapshots, _ = train_preference(shown, fields, SIZES, DAYS, CONFIG, device=CPU)
    user = snapshots.vectors["user"][-1]
    # users 1 and 5 have no exposure and equal fields, and so has the row of unseen users; 9 has other fields
    assert torch.equal(user[1], user[5])
    assert torch.equal(user[1], user[-1])
    assert not torch.equal(user[1], user[9])
    # users 2 and 6 have equal fields and exposures of their own
    assert not torch.equal(user[2], user[6])


def test_id_dropout_trains_the_unknown_rows():
    """Without it, the unknown user's ID vector stays as it was made."""
    first = _make_member(SIZES, CONFIG, 0).fields["user"].table.weight[NUM_USERS].detach()
    for id_dropout in (0.0, 0.3):
        config = replace(CONFIG, num_members=1, id_dropout=id_dropout, weight_decay=0.0)
        member = _make_member(SIZES, config, 0)
        _fit(member, exposures_of(toy_log()), FIELDS, config, 2, 0)
        is_trained = not torch.equal(member.fields["user"].table.weight[NUM_USERS], first)
        assert is_trained == (id_dropout > 0)


def test_joint_vectors_score_as_the_mean_of_the_members():
    members = [_make_member(SIZES, CONFIG, number) for number in range(3)]
    user, item = torch.tensor([0, 3, 12, 13]), torch.tensor([8, 0, 5, 9])
    everyone = {"user": torch.arange(NUM_USERS), "item": torch.arange(NUM_ITEMS)}

    def score(of):
        left, right = (_encode(of, name, FIELDS[name], seen) for name, seen in everyone.items())
        return preference_score(left[user], right[item])

    alone = torch.stack([score([member]) for member in members])
    torch.testing.assert_close(score(members), alone.mean(dim=0))
    assert alone.std(dim=0).min() > 0


def test_the_first_member_is_the_model_of_a_single_one(undisturbed):
    single, _ = fit(config=replace(CONFIG, num_members=1))
    for name, vectors in undisturbed[0].vectors.items():
        torch.testing.assert_close(vectors[..., :4] * 2**0.5, single.vectors[name][..., :4])
        assert not torch.allclose(vectors[1:, :, :4], vectors[1:, :, 4:8])


# ---- what a head reads ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(undisturbed):
    long_term = LongTermSnapshots(
        torch.tensor(DAYS),
        {
            "user": torch.randn(len(DAYS), NUM_USERS + 1, 5),
            "item": torch.randn(len(DAYS), NUM_ITEMS + 1, 5),
        },
    )
    return replace(click_data(toy_log(), snapshots=long_term), preferences=undisturbed[0])


ROWS = torch.arange(300, 340)


def test_a_batch_has_the_vectors_of_its_day(data):
    batch = collate(data, ROWS)
    for i, row in enumerate(ROWS.tolist()):
        user, item, time, _ = toy_log().rows[row]
        assert torch.equal(batch.preference_user[i], data.preferences.vectors["user"][time // DAY, user])
        assert torch.equal(batch.preference_item[i], data.preferences.vectors["item"][time // DAY, item])
    assert collate(replace(data, preferences=None), ROWS).preference_user is None
    assert same(batch.to("cpu").preference_item, batch.preference_item)


def test_fields_and_dense_features_by_hand(data):
    module = PreferenceFields(3, 2)
    with torch.no_grad():
        module.user_projection.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        module.item_projection.weight.copy_(torch.tensor([[0.5, 0.0], [3.0, 1.0]]))
    batch = replace(
        collate(data, ROWS[:1]),
        preference_user=torch.tensor([[2.0, 3.0, 0.25]]),
        preference_item=torch.tensor([[4.0, -1.0, -0.5]]),
    )
    fields, dense = module(batch)
    assert fields.tolist() == [[[8.0, -3.0], [2.0, 11.0]]]
    assert dense.tolist() == [[5.0, 0.25, -0.5]]


@pytest.mark.parametrize("kind", ["LSTTM", "DeepFM"])
def test_vectors_reach_the_score_and_no_gradient_reaches_them(data, kind):
    torch.manual_seed(0)
    if kind == "LSTTM":
        model = full_lsttm(data, preference_channels=9).eval()
    else:
        model = DeepFMRanker(sizes(data.dense.shape[1]), channels=6, preference_channels=9).eval()
    batch = collate(data, ROWS)
    vectors = {
        name: getattr(batch, name).clone().requires_grad_() for name in ("preference_user", "preference_item")
    }
    click_loss(model, replace(batch, **vectors)).backward()
    assert all(vector.grad is None for vector in vectors.values())
    for projection in (model.preference.user_projection, model.preference.item_projection):
        assert projection.weight.grad.ne(0).any()
    for name in vectors:
        other = replace(batch, **{name: getattr(batch, name) + 1})
        assert (model(other) != model(batch)).all(), name
    # one row's vectors are its own matter
    changed = batch.preference_user.clone()
    changed[3] += 1
    differs = model(replace(batch, preference_user=changed)) != model(batch)
    assert differs.nonzero().flatten().tolist() == [3]


def test_a_model_without_the_option_reads_none(data):
    torch.manual_seed(0)
    model = DeepFMRanker(sizes(data.dense.shape[1]), channels=6).eval()
    without = collate(replace(data, preferences=None), ROWS)
    assert torch.equal(model(collate(data, ROWS)), model(without))


def test_a_batch_without_vectors_is_refused(data):
    model = DeepFMRanker(sizes(data.dense.shape[1]), channels=6, preference_channels=9)
    with pytest.raises(ValueError, match=r"preference vectors of 9 columns, the batch has none"):
        model(collate(replace(data, preferences=None), ROWS))
    model = DeepFMRanker(sizes(data.dense.shape[1]), channels=6, preference_channels=5)
    with pytest.raises(ValueError, match=r"of 5 columns, the batch has 9: set `preferences`"):
        model(collate(data, ROWS))
