"""QuantileScaler: what it was fitted on, missing values, and the shape of its output."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.training.scaling import QuantileScaler


def rows(seed=0, num_rows=150):
    """Three features: heavy-tailed, with missing values, constant; time in order of no feature."""
    draw = np.random.default_rng(seed)
    values = np.stack(
        [draw.exponential(9, num_rows), draw.normal(size=num_rows), np.full(num_rows, 2.0)], axis=1
    )
    values[draw.random(num_rows) < 0.2, 1] = np.nan
    time = torch.from_numpy(draw.integers(0, 100, num_rows))
    return torch.from_numpy(values.astype(np.float32)), time


@given(st.integers(0, 50), st.integers(20, 99))
@settings(max_examples=10, deadline=None)
def test_later_rows_change_nothing(seed, fit_until):
    values, time = rows(seed)
    later = time >= fit_until
    changed = values.clone()
    changed[later] = changed[later] * 50 - 7
    before = QuantileScaler.fit(values, time, fit_until=fit_until)
    after = QuantileScaler.fit(changed, time, fit_until=fit_until)
    assert before.fit_until == fit_until
    assert torch.equal(before.transform(values), after.transform(values))


def test_a_row_at_the_cut_off_is_not_seen_and_one_before_it_is():
    values, time = rows()
    time = time.clone()
    time[:2] = torch.tensor([60, 59])
    expected = QuantileScaler.fit(values, time, fit_until=60).transform(values[5:])
    at, before = values.clone(), values.clone()
    at[0, 0] = before[1, 0] = 1e6
    assert torch.equal(QuantileScaler.fit(at, time, fit_until=60).transform(values[5:]), expected)
    assert not torch.equal(QuantileScaler.fit(before, time, fit_until=60).transform(values[5:]), expected)


def test_missing_values_become_zero_and_are_marked():
    values, time = rows()
    scaled = QuantileScaler.fit(values, time, fit_until=101).transform(values)
    missing = values[:, 1].isnan()
    assert scaled.shape == (150, 4)  # one column marks the one feature that misses values
    assert torch.equal(scaled[:, 3], missing.float())
    assert scaled[missing, 1].eq(0).all()
    assert scaled[~missing, 1].ne(0).sum() > 100
    assert scaled.isfinite().all()
    # a value that is missing for the first time after the fit is 0 too, without a mark
    new = values[:1].clone()
    new[0, 0] = torch.nan
    assert QuantileScaler.fit(values, time, fit_until=101).transform(new)[0, 0] == 0


def test_a_feature_without_any_value_is_zero():
    values, time = rows()
    values[:, 1] = torch.nan
    scaled = QuantileScaler.fit(values, time, fit_until=101).transform(values)
    assert scaled[:, 1].eq(0).all()
    assert scaled[:, 3].eq(1).all()


def test_scaled_values_are_normal_and_keep_their_order():
    values, time = rows(num_rows=600)
    scaled = QuantileScaler.fit(values, time, fit_until=101).transform(values)[:, 0]
    assert scaled.mean().abs() < 0.05
    assert scaled.std() == pytest.approx(1, abs=0.1)
    assert scaled.abs().max() <= 3
    order = values[:, 0].argsort()
    assert scaled[order].diff().min() >= 0
    extreme = torch.tensor([[1e9, 0, 2], [-1e9, 0, 2]])
    assert QuantileScaler.fit(values, time, fit_until=101).transform(extreme)[:, 0].tolist() == [3, -3]


def test_nothing_to_fit_on_is_told():
    values, time = rows()
    with pytest.raises(ValueError, match="no row lies before fit_until=0"):
        QuantileScaler.fit(values, time, fit_until=0)
