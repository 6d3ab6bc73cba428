"""How fast the simulator is, and what simple scorers reach on its SIMULATED data, by planted effect.

Run ``python -m experiments.benchmarks.simulator``. The last two days are scored. A scorer reads what was
known at the start of an impression's hour (external events: of its day). "fields" is a logistic regression
on all fields, contexts and item IDs, as much as DeepFM can know; the others add one source of knowledge to
it, prepared with the true topics, which models must find out for themselves. The shares say how much of the
way from "fields" to the oracle a source closes.
"""

import argparse
import os
import platform
import resource
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from graph_builders.datasets import SimulatedData, SimulatorConfig, config_of_size, simulate

MIN_EVENTS_PER_SECOND = 1_000_000
TEST_DAYS = 2
FIRST_DAYS = 2  # of which counts are too small to fit weights on
ZEROS = ("trend", "external_interest", "short_interest", "lasting_interest")
SOURCES = ("external events", "hot topics", "user's clicks")


def scores(data: SimulatedData) -> dict[str, float]:
    """Return the AUC of each scorer on the last two days.

    Keys: "oracle", "item CTR so far", "user CTR so far", "fields", "fields + " each of ``SOURCES``, "all",
    and "all but " each of ``SOURCES``.
    """
    rows = _Rows(data)
    label, test = rows.label, rows.day >= data.config.num_days - TEST_DAYS
    item_rate, user_rate = (rows.rate(key, label, 10.0, label.mean()) for key in (rows.item, rows.user))
    found = {
        "oracle": data.oracle_auc(test),
        "item CTR so far": roc_auc_score(label[test], item_rate[test]),
        "user CTR so far": roc_auc_score(label[test], user_rate[test]),
    }
    fields = _fields(data)
    fitted = LogisticRegression(C=0.3, max_iter=300).fit(fields[~test], label[~test])
    base = fitted.decision_function(fields)
    columns = _source_columns(data, rows, label - 1 / (1 + np.exp(-base)))
    known = (rows.day >= FIRST_DAYS) & ~test

    def auc(*names: str) -> float:
        table = np.column_stack([base, *(columns[name] for name in names)])
        table = (table - table[known].mean(axis=0)) / table[known].std(axis=0)
        model = LogisticRegression(max_iter=300).fit(table[known], label[known])
        return float(roc_auc_score(label[test], model.decision_function(table[test])))

    found["fields"] = float(roc_auc_score(label[test], base[test]))
    found |= {f"fields + {name}": auc(name) for name in SOURCES}
    found["all"] = auc(*SOURCES)
    found |= {f"all but {name}": auc(*(other for other in SOURCES if other != name)) for name in SOURCES}
    return found


class _Rows:
    """The impressions' columns as numbers, and sums over the past of each row."""

    def __init__(self, data: SimulatedData) -> None:
        shown = data.impressions
        self.user, self.item = shown["user_id"].to_numpy(), shown["item_id"].to_numpy()
        self.topic = data.world.item_topic[self.item].astype(np.int64)
        self.label = shown["label"].to_numpy().astype(np.float64)
        self.first_day = int(shown["time"][0]) // 86_400
        hour = shown["time"].to_numpy() // 3600 - 24 * self.first_day
        self.day = hour // 24
        self._hour_bounds = np.searchsorted(hour, np.arange(data.config.num_hours + 1))

    def past(self, key: np.ndarray, value: np.ndarray, decay_hours: float | None = None) -> np.ndarray:
        """Sum the values of earlier hours over rows of the same key, older ones by exp(-age / decay)."""
        total, out = np.zeros(int(key.max()) + 1), np.empty(len(key))
        for first, end in pairwise(self._hour_bounds):
            out[first:end] = total[key[first:end]]
            np.add.at(total, key[first:end], value[first:end])
            if decay_hours is not None:
                total *= np.exp(-1 / decay_hours)
        return out

    def rate(
        self,
        key: np.ndarray,
        value: np.ndarray,
        smoothing: float,
        prior: float,
        decay_hours: float | None = None,
    ) -> np.ndarray:
        """Return the mean of the values of earlier hours, smoothed towards ``prior``."""
        count = self.past(key, np.ones(len(key)), decay_hours)
        return (self.past(key, value, decay_hours) + smoothing * prior) / (count + smoothing)


def _fields(data: SimulatedData) -> sparse.csr_matrix:
    """Return all fields, contexts and item IDs as zeros and ones; rare values fall together."""
    assert data.user_table is not None
    assert data.item_table is not None
    joined = data.impressions.join(data.user_table, on="user_id", how="left", maintain_order="left").join(
        data.item_table.drop("birth_hour"), on="item_id", how="left", maintain_order="left"
    )
    table = joined.drop("user_id", "time", "label").cast(pl.String).to_numpy()
    return OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20).fit_transform(table)


def _source_columns(data: SimulatedData, rows: _Rows, residual: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each source tells, from labels less what the fields expected of them."""
    pair = rows.user * data.config.num_topics + rows.topic
    one = np.ones(len(pair))
    hot = [rows.rate(rows.topic, residual, 10.0, 0.0, decay_hours=hours) for hours in (1.0, 3.0, 8.0)]
    own = [
        rows.rate(rows.user, residual, 3.0, 0.0),
        rows.rate(pair, residual, 2.0, 0.0),
        rows.past(pair, one),
        rows.past(pair, residual, decay_hours=4.0),
        rows.past(pair, one, decay_hours=4.0),
    ]
    return {
        "external events": _external_share(data, rows, pair)[:, None],
        "hot topics": np.stack(hot, axis=1),
        "user's clicks": np.stack(own, axis=1),
    }


def _external_share(data: SimulatedData, rows: _Rows, pair: np.ndarray) -> np.ndarray:
    """Return the root of the smoothed share of the topic in the user's external events of earlier days."""
    config, world = data.config, data.world
    views = data.events.frame.filter(pl.col("domain") == "external")
    topic = world.external_topic[views["item_id"].to_numpy() - config.num_items].astype(np.int64)
    viewed = views["user_id"].to_numpy() * config.num_topics + topic
    day = views["time"].to_numpy() // 86_400 - rows.first_day
    common = np.bincount(topic, minlength=config.num_topics) / max(len(topic), 1)
    count, out = np.zeros(config.num_users * config.num_topics), np.empty(len(pair))
    for today in range(config.num_days):
        row = np.flatnonzero(rows.day == today)
        total = count.reshape(-1, config.num_topics).sum(axis=1)[rows.user[row]]
        out[row] = np.sqrt((count[pair[row]] + 2 * common[rows.topic[row]]) / (total + 2))
        np.add.at(count, viewed[day == today], 1)
    return out


def main() -> None:
    """Print speeds and scores; exit with 1 if the largest log is made too slowly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="*", default=[1_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, polars {pl.__version__}, numpy {np.__version__}")
    speed = float("inf")
    for num_events in arguments.events:
        begin = time.perf_counter()
        simulate(config_of_size(num_events))
        seconds = time.perf_counter() - begin
        speed = num_events / seconds
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{num_events:>12,} events {seconds:7.2f} s {speed:>11,.0f} a second, peak so far {peak:.2f} GiB"
        )
    for seed in arguments.seeds:
        default = SimulatorConfig(random_seed=seed)
        print(f"\nSIMULATED data, seed {seed}, {default.num_events:,} events: AUC of the last two days")
        variants: dict[str, dict[str, Any]] = {"default": {}} | {f"{name} 0": {name: 0.0} for name in ZEROS}
        columns = {name: scores(simulate(replace(default, **zero))) for name, zero in variants.items()}
        print(f"{'':28}" + "".join(f"{name:>21}" for name in columns))
        for scorer in columns["default"]:
            print(f"{scorer:28}" + "".join(f"{column[scorer]:21.4f}" for column in columns.values()))
        for name in SOURCES:
            shares = "".join(f"{_share(column, name):>21}" for column in columns.values())
            print(f"{'share of ' + name:28}{shares}")
    if speed < MIN_EVENTS_PER_SECOND:
        raise SystemExit(1)


def _share(found: dict[str, float], name: str) -> str:
    """Return the shares of the gap that a source closes alone, and on top of all others."""
    gap = found["oracle"] - found["fields"]
    alone, last = found[f"fields + {name}"] - found["fields"], found["all"] - found[f"all but {name}"]
    return f"{alone / gap:.1%}, {last / gap:.1%}"


if __name__ == "__main__":
    main()
