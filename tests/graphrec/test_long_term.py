"""The long-term module: snapshots by day, resume, and communities that walks bring apart."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from graphrec.losses import neighbor_similarity_loss, walk_pairs
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.long_term import LongTermConfig, LongTermSnapshots, pool_edges, train_long_term
from samplers import TemporalCSR, random_walks
from tests.graphrec.toy_data import DAY, DAYS, LONG_TERM, NUM_ITEMS, NUM_USERS, graph_of, same, toy_log
from tests.samplers.strategies import csr_of, edge_sets

CPU = torch.device("cpu")
NUM_NODES = {"user": NUM_USERS + 1, "item": NUM_ITEMS + 1}


def fit(log=None, checkpoint=None, on_step=None, days=DAYS, config=LONG_TERM):
    csrs = graph_of(toy_log() if log is None else log)
    return train_long_term(csrs, NUM_NODES, days, config, device=CPU, checkpoint=checkpoint, on_step=on_step)


@pytest.fixture(scope="module")
def undisturbed():
    return fit()


def assert_same_snapshots(left, right):
    assert torch.equal(left[0].time, right[0].time)
    for name, vectors in right[0].vectors.items():
        assert torch.equal(left[0].vectors[name], vectors), name
    assert left[1] == right[1]


# ---- snapshots -----------------------------------------------------------------------------------


def test_look_up_reads_the_last_snapshot_at_or_before_the_query():
    vectors = torch.arange(3 * 4 * 2).float().view(3, 4, 2)
    snapshots = LongTermSnapshots(torch.tensor([10, 20, 40]), {"user": vectors})
    node, time = torch.tensor([0, 3, 1, 2, 2]), torch.tensor([10, 19, 20, 39, 1000])
    expected = torch.stack([vectors[0, 0], vectors[0, 3], vectors[1, 1], vectors[1, 2], vectors[2, 2]])
    assert torch.equal(snapshots.look_up("user", node, time), expected)
    assert snapshots.look_up("user", node[:0], time[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="first long-term snapshot is of 10, a query is of 9"):
        snapshots.look_up("user", node[:2], torch.tensor([10, 9]))


def test_a_day_is_unchanged_by_edges_at_or_after_it(undisturbed):
    log = toy_log().with_rows((2, 3, 2 * DAY, True), (2, 3, 2 * DAY + 1, True), (5, 4, 2 * DAY + 9, False))
    changed, losses = fit(log)
    for name, vectors in undisturbed[0].vectors.items():
        assert torch.equal(changed.vectors[name][:3], vectors[:3]), name
        assert not torch.equal(changed.vectors[name][3], vectors[3]), name
    assert losses[:3] == undisturbed[1][:3]
    assert losses[3] != undisturbed[1][3]


def test_first_day_has_seen_no_edge_and_unseen_ids_have_no_vector(undisturbed):
    snapshots, losses = undisturbed
    assert losses[0] == 0.0
    assert min(losses[1:]) > 0
    assert snapshots.vectors["user"].shape == (len(DAYS), NUM_USERS + 1, LONG_TERM.channels)
    assert snapshots.vectors["item"].shape == (len(DAYS), NUM_ITEMS + 1, LONG_TERM.channels)
    for vectors in snapshots.vectors.values():
        assert vectors[:, -1].eq(0).all()
        assert vectors[:, :-1].ne(0).any(dim=2).all()
        assert vectors.isfinite().all()
        assert not torch.equal(vectors[1], vectors[2])


def test_days_must_rise():
    for days in ([DAY, 0], [0, 0]):
        with pytest.raises(ValueError, match="ascending and distinct"):
            fit(days=days)


def test_recency_needs_a_half_life_and_draws_other_neighbors(undisturbed):
    with pytest.raises(ValueError, match="half_life"):
        fit(config=replace(LONG_TERM, strategy="recency"))
    recency = fit(config=replace(LONG_TERM, strategy="recency", half_life=DAY // 8), days=DAYS[:2])
    assert not torch.equal(recency[0].vectors["user"][1], undisturbed[0].vectors["user"][1])


@given(first=edge_sets(max_size=12), second=edge_sets(max_size=12), third=edge_sets(max_size=5))
@settings(max_examples=40, deadline=None)
def test_pooling_keeps_every_edge(first, second, third):
    csrs = {
        ("item", "rev_click", "user"): csr_of(first),
        ("item", "rev_skip", "user"): csr_of(second),
        ("user", "click", "item"): csr_of(third, row="source"),
    }

    def rows(csr):
        known = csr.edge_time if csr.available_time is None else csr.available_time
        return sorted(
            zip(*(c.tolist() for c in (csr.row_of_edge(), csr.col, csr.edge_time, known)), strict=True)
        )

    pooled = pool_edges(csrs)
    assert list(pooled) == [("item", "any", "user"), ("user", "any", "item")]
    users, items = pooled.values()
    assert rows(users) == sorted(rows(csr_of(first)) + rows(csr_of(second)))
    assert rows(items) == rows(csrs["user", "click", "item"])
    assert (users.num_rows, users.num_cols) == (5, 4)
    assert len(set(users.edge_id.tolist())) == users.num_edges


# ---- resume --------------------------------------------------------------------------------------


class BreakError(Exception):
    """What stands for a Ctrl-C."""


def test_resumes_to_the_same_bits(tmp_path, undisturbed):
    checkpoint = tmp_path / "long_term.pt"

    def on_step(done, total):
        assert total == 4 + 3 * 2
        if done == breaks[0]:
            breaks.pop(0)
            raise BreakError

    breaks = [3, 7, 99]  # on the first day, in the middle of the third
    for _ in range(2):
        with pytest.raises(BreakError):
            fit(checkpoint=checkpoint, on_step=on_step)
    assert len(load_checkpoint(checkpoint)["losses"]) == 2
    seen = []
    result = fit(checkpoint=checkpoint, on_step=lambda done, total: seen.append(done))
    assert seen == [7, 8, 9, 10]
    assert_same_snapshots(result, undisturbed)


def test_goes_on_with_later_days(tmp_path, undisturbed):
    checkpoint = tmp_path / "long_term.pt"
    fit(checkpoint=checkpoint, days=DAYS[:2])
    assert_same_snapshots(fit(checkpoint=checkpoint), undisturbed)


def kill_at(step):
    return lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == step else None


@pytest.mark.slow
def test_resumes_after_sigkill(tmp_path, undisturbed):
    checkpoint = tmp_path / "long_term.pt"
    code = (
        "import pathlib, sys\n"
        "from tests.graphrec.test_long_term import fit, kill_at\n"
        "fit(checkpoint=pathlib.Path(sys.argv[1]), on_step=kill_at(8))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(load_checkpoint(checkpoint)["losses"]) == 2
    assert_same_snapshots(fit(checkpoint=checkpoint), undisturbed)


def test_a_cut_checkpoint_is_told(tmp_path):
    checkpoint = tmp_path / "long_term.pt"
    fit(checkpoint=checkpoint, days=DAYS[:2])
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        fit(checkpoint=checkpoint)


# ---- what walks tell -----------------------------------------------------------------------------

COMMUNITY_USERS, COMMUNITY_ITEMS = 12, 7  # of each of the two communities


@pytest.fixture(scope="module")
def communities():
    """Two communities; one click in twenty crosses over."""
    draw = np.random.default_rng(1)
    user = draw.integers(0, 2 * COMMUNITY_USERS, 400)
    side = (user >= COMMUNITY_USERS) ^ (draw.random(400) < 0.05)
    item = draw.integers(0, COMMUNITY_ITEMS, 400) + COMMUNITY_ITEMS * side
    index, time = torch.from_numpy(np.stack([user, item])), torch.arange(400)
    num_users, num_items = 2 * COMMUNITY_USERS, 2 * COMMUNITY_ITEMS
    return {
        ("user", "click", "item"): TemporalCSR.from_edge_index(
            index, time, num_rows=num_items, num_cols=num_users, row="destination"
        ),
        ("item", "rev_click", "user"): TemporalCSR.from_edge_index(
            index, time, num_rows=num_users, num_cols=num_items, row="source"
        ),
    }


def separation(user, item):
    """AUC of inner products: user-item pairs of one community against pairs across."""
    score = user @ item.T
    within = (torch.arange(len(user))[:, None] < COMMUNITY_USERS) == (
        torch.arange(len(item)) < COMMUNITY_ITEMS
    )
    return (score[within][:, None] > score[~within]).double().mean().item()


def test_training_on_walks_separates_two_communities(communities):
    config = LongTermConfig(channels=6, num_neighbors=4, num_walks=128, first_steps=60)
    sizes = {"user": 2 * COMMUNITY_USERS + 1, "item": 2 * COMMUNITY_ITEMS + 1}
    snapshots, losses = train_long_term(communities, sizes, [1000], config, device=CPU)
    user, item = (snapshots.vectors[name][0, :-1] for name in ("user", "item"))
    assert separation(user, item) > 0.95
    untrained, first = train_long_term(
        communities, sizes, [1000], replace(config, first_steps=1, learning_rate=0.0), device=CPU
    )
    assert losses[0] < first[0] - 0.1
    # averaging neighbours alone tells communities apart a little; the loss does the rest
    assert separation(*(untrained.vectors[name][0, :-1] for name in ("user", "item"))) < separation(
        user, item
    )


def test_without_negatives_the_printed_loss_makes_all_vectors_alike(communities):
    config = LongTermConfig(channels=6, num_neighbors=4, num_walks=128, first_steps=60, num_negatives=0)
    sizes = {"user": 2 * COMMUNITY_USERS + 1, "item": 2 * COMMUNITY_ITEMS + 1}
    snapshots, losses = train_long_term(communities, sizes, [1000], config, device=CPU)
    user, item = (snapshots.vectors[name][0, :-1] for name in ("user", "item"))
    cosine = torch.nn.functional.normalize(user, dim=1) @ torch.nn.functional.normalize(item, dim=1).T
    assert cosine.min() > 0.7  # also across communities
    assert losses[0] < 0.2


def test_loss_agrees_with_word2vec_on_the_same_walks(communities):
    from gensim.models import Word2Vec

    num_users, num_items = 2 * COMMUNITY_USERS, 2 * COMMUNITY_ITEMS
    start = torch.arange(num_users)
    walks = random_walks(
        communities, start, 10, start_type="user", as_of=torch.full_like(start, 1000), walks_per_node=20
    )
    joint = walks.joint_id({"user": 0, "item": num_users})
    assert walks.mask.all()

    sentences = [[str(node) for node in walk] for walk in joint.tolist()]
    words = Word2Vec(
        sentences, vector_size=6, window=9, sg=1, negative=5, min_count=1, workers=1, seed=1, epochs=20
    )
    word2vec = torch.tensor(np.stack([words.wv[str(node)] for node in range(num_users + num_items)]))
    word2vec = torch.nn.functional.normalize(word2vec)
    assert separation(word2vec[:num_users], word2vec[num_users:]) > 0.9

    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.randn(num_users + num_items, 6) * 0.3)
    pair = walk_pairs(joint, walks.mask)
    weight = joint.flatten().bincount(minlength=len(x)).float() ** 0.75
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(60):
        negative = torch.multinomial(weight, 5 * pair.shape[1], replacement=True).view(-1, 5)
        optimizer.zero_grad()
        neighbor_similarity_loss(x, pair, negative).backward()
        optimizer.step()
    ours = x.detach()
    assert separation(ours[:num_users], ours[num_users:]) > 0.9


def test_snapshots_of_a_toy_log_can_be_read_back(undisturbed):
    snapshots, _ = undisturbed
    users = torch.arange(NUM_USERS)
    for day, start in enumerate(DAYS):
        for time in (start, start + DAY - 1):
            found = snapshots.look_up("user", users, torch.full_like(users, time))
            assert same(found, snapshots.vectors["user"][day, :-1])
