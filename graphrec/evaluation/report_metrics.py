"""All figures of one model's predictions, as tidy rows: over all rows, by hour, period of the day and day."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from graphrec.evaluation.ctr import (
    GAUC,
    auc,
    brier_score,
    calibration_ratio,
    check_column,
    check_probability,
    expected_calibration_error,
    gauc,
    group_codes,
    grouped_auc,
    log_loss,
    normalized_entropy,
    reliability_curve,
)

PERIODS_OF_DAY = ((0, 8), (8, 16), (16, 24))  # hours; LSTTM, section 5.4
_SECONDS_PER_HOUR = 3600


class MetricRow(NamedTuple):
    """One figure: of which slice of the rows, which metric, its value (NaN if undefined), over how many."""

    slice: str
    metric: str
    value: float
    n: int


def evaluate_predictions(
    label: ArrayLike,
    score: ArrayLike,
    user: ArrayLike,
    time: ArrayLike,
    *,
    period_of_day: Sequence[tuple[int, int]] = PERIODS_OF_DAY,
    period_seconds: int = _SECONDS_PER_HOUR,
    utc_offset_seconds: int = 0,
    num_bins: int = 20,
) -> list[MetricRow]:
    """Score predictions by the protocol of LSTTM (section 5.4): each hour, and the mean over the periods.

    ``time`` is int64 unix seconds; hours, days and periods are cut after ``utc_offset_seconds`` is added
    (28800 for China). ``period_seconds`` is the length of the period whose start fixes an impression's
    features: within (user, period) all that is known of the user is constant, so this GAUC is fair where
    features are refreshed during the test.

    Slices: ``all``, ``hour=08`` ([8:00, 9:00) of all days), ``period=0-8``, ``day=2022-05-04``; empty ones
    do not appear. Metrics of each slice, with ``n`` its rows: ``auc``, ``gauc[user; impressions]``,
    ``gauc[user,period; impressions]``, the shares of rows that these leave out
    (``gauc_rows_left_out[user]``, ``gauc_rows_left_out[user,period]``), ``log_loss``,
    ``normalized_entropy``, ``brier_score``, ``ece`` (quantile bins), ``calibration_ratio``,
    ``click_rate``. ``mean_hourly_auc``, of ``all``, the periods and the days, is the unweighted mean of the
    AUCs of single hours of single days, with ``n`` the hours that have both classes. Slices
    ``reliability_bin=00`` and on hold ``mean_score`` and ``click_rate`` of the reliability curve.
    """
    label_array, score_array = check_probability(label, score)
    user_array = check_column(user, "user", len(label_array))
    local_time = check_column(time, "time", len(label_array)).astype(np.int64) + utc_offset_seconds
    if period_seconds < 1:
        raise ValueError(f"period_seconds must be at least 1, got {period_seconds}")
    hour_of_log = local_time // _SECONDS_PER_HOUR
    user_period = group_codes(user_array, local_time // period_seconds)
    hourly = grouped_auc(label_array, score_array, hour_of_log)

    rows: list[MetricRow] = []
    for name, chosen in _slices(hour_of_log, period_of_day):
        figures = _metrics(
            label_array[chosen], score_array[chosen], user_array[chosen], user_period[chosen], num_bins
        )
        rows += [MetricRow(name, metric, value, int(chosen.sum())) for metric, value in figures.items()]
        if not name.startswith("hour="):
            in_slice = hourly.auc[np.isin(hourly.group, hour_of_log[chosen])]
            defined = in_slice[~np.isnan(in_slice)]
            mean = float(defined.mean()) if len(defined) else math.nan
            rows.append(MetricRow(name, "mean_hourly_auc", mean, len(defined)))
    return rows + _reliability_rows(label_array, score_array, num_bins)


def _slices(
    hour_of_log: Int64[np.ndarray, " num_rows"], period_of_day: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Names of the slices and masks of their rows; hours are counted from 1970-01-01 00:00, local time."""
    yield "all", np.ones(len(hour_of_log), dtype=bool)
    hour, day = hour_of_log % 24, hour_of_log // 24
    for one_hour in np.unique(hour):
        yield f"hour={one_hour:02d}", hour == one_hour
    for start, end in period_of_day:
        if not 0 <= start < end <= 24:
            raise ValueError(f"a period of the day must lie in hours 0 to 24, got {start}-{end}")
        chosen = (hour >= start) & (hour < end)
        if chosen.any():
            yield f"period={start}-{end}", chosen
    for one_day in np.unique(day):
        yield f"day={np.datetime64(int(one_day), 'D')}", day == one_day


def _metrics(
    label: Int64[np.ndarray, " num_rows"],
    score: Float64[np.ndarray, " num_rows"],
    user: np.ndarray,
    user_period: Int64[np.ndarray, " num_rows"],
    num_bins: int,
) -> dict[str, float]:
    by_user: GAUC = gauc(label, score, user)
    by_user_period: GAUC = gauc(label, score, user_period)
    return {
        "auc": auc(label, score),
        "gauc[user; impressions]": by_user.value,
        "gauc[user,period; impressions]": by_user_period.value,
        "gauc_rows_left_out[user]": by_user.share_of_rows_left_out,
        "gauc_rows_left_out[user,period]": by_user_period.share_of_rows_left_out,
        "log_loss": log_loss(label, score),
        "normalized_entropy": normalized_entropy(label, score),
        "brier_score": brier_score(label, score),
        "ece": expected_calibration_error(label, score, num_bins),
        "calibration_ratio": calibration_ratio(label, score),
        "click_rate": float(label.mean()),
    }


def _reliability_rows(
    label: Int64[np.ndarray, " num_rows"], score: Float64[np.ndarray, " num_rows"], num_bins: int
) -> list[MetricRow]:
    curve = reliability_curve(label, score, num_bins)
    rows: list[MetricRow] = []
    for position, (mean_score, click_rate, count) in enumerate(
        zip(curve.mean_score.tolist(), curve.click_rate.tolist(), curve.num_rows.tolist(), strict=True)
    ):
        name = f"reliability_bin={position:02d}"
        rows.append(MetricRow(name, "mean_score", mean_score, count))
        rows.append(MetricRow(name, "click_rate", click_rate, count))
    return rows
