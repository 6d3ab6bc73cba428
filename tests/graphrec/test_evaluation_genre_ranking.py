"""Average precision at k: a case by hand, and all orders of equal scores written out."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.evaluation import genre_ranking
from graphrec.evaluation.genre_ranking import average_precision_at_k
from graphrec.evaluation.significance import bootstrap_sums, interval_of, p_value_of


def of_sets(score, sets, k=10):
    ptr = torch.tensor([0, *np.cumsum([len(one) for one in sets])])
    relevant = torch.tensor([number for one in sets for number in one], dtype=torch.int64)
    return average_precision_at_k(torch.as_tensor(score, dtype=torch.float32), ptr, relevant, k=k)


def slow(score, relevant, k):
    """The definition, over every order that the scores allow."""
    values = []
    for order in permutations(range(len(score))):
        if any(score[a] < score[b] for a, b in pairwise(order)):
            continue
        hits, total = 0, 0.0
        for place, number in enumerate(order[:k], start=1):
            if number in relevant:
                hits += 1
                total += hits / place
        values.append(total / min(k, len(relevant)))
    return float(np.mean(values))


def test_by_hand():
    score = [[4, 3, 2, 1, 0], [0, 1, 2, 3, 4], [1, 1, 0, 0, 0]]
    # found at 1 and 3 of three, the third unknown; at 5; a tie of two for the first place
    expected = [(1 + 2 / 3) / 3, 1 / 5, (1 / 2) * (1 + 1 / 2)]
    assert of_sets(score, [[0, 2, -1], [0], [1]]) == pytest.approx(expected)
    # with two places the denominator is 2, and the third place does not count
    assert of_sets(score, [[0, 2, -1], [0], [1]], k=2) == pytest.approx([1 / 2, 0, 3 / 4])


@st.composite
def queries(draw):
    num_classes = draw(st.integers(1, 6))
    number = st.integers(-1, num_classes - 1)
    return draw(
        st.lists(
            st.tuples(
                st.lists(st.integers(0, 3), min_size=num_classes, max_size=num_classes),
                st.lists(number, min_size=1, max_size=num_classes, unique=True),
            ),
            min_size=1,
            max_size=4,
        )
    )


@given(queries(), st.integers(1, 7), st.integers(1, 40))
@settings(max_examples=60)
def test_is_the_mean_over_all_orders(rows, k, at_once):
    before, genre_ranking._SCORES_AT_ONCE = genre_ranking._SCORES_AT_ONCE, at_once
    try:
        got = of_sets([score for score, _ in rows], [relevant for _, relevant in rows], k)
    finally:
        genre_ranking._SCORES_AT_ONCE = before
    np.testing.assert_allclose(got, [slow(score, set(relevant), k) for score, relevant in rows], atol=1e-12)


def test_the_numbers_of_classes_say_nothing():
    values = of_sets(np.zeros((300, 300)), [[number] for number in range(300)])
    assert np.ptp(values) < 1e-12
    assert values[0] == pytest.approx(sum(1 / place for place in range(1, 11)) / 300)


def test_bootstrap_over_users_as_the_docstring_says():
    generator = np.random.default_rng(0)
    user_id = np.repeat(np.arange(60) * 7, 3)
    sets = [[int(number)] for number in generator.integers(20, size=180)]
    noise = generator.normal(size=(180, 20))
    good = noise.copy()
    good[np.arange(180), [one[0] for one in sets]] += 1.0
    values = np.stack([of_sets(score, sets) for score in (good, noise)], axis=1)
    user, code = np.unique(user_id, return_inverse=True)
    sums = np.zeros((len(user), 3))
    np.add.at(sums, code, np.column_stack([values, np.ones(len(values))]))
    drawn = bootstrap_sums(sums, num_resamples=500, random_seed=0)
    difference = (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]
    mean = float((values[:, 0] - values[:, 1]).mean())
    lower, upper = interval_of(difference)
    assert 0 < lower < mean < upper
    assert p_value_of(mean, difference) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"score": [[1.0, float("nan")]]}, "finite, the first query with another one is 0"),
        ({"sets": [[2]]}, r"must lie in \[-1, 2\)"),
        ({"sets": [[1, 1]]}, "twice in a query"),
        ({"sets": [[]]}, "query 0 has no relevant class"),
        ({"sets": [[0], [1]]}, "ptr must rise from 0 to 2 over 1 queries"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        of_sets(**({"score": [[1.0, 0.0]], "sets": [[0]]} | change))
