"""Exposures of each data set by a slow reading of its log; the option where there are none."""

from collections import defaultdict
from dataclasses import replace

import polars as pl
import pytest
import torch

from experiments.config import PREFERENCE, BaselineConfig, LSTTMConfig, lsttm
from experiments.inputs import load_inputs
from experiments.main_inputs import ExposureRole
from experiments.preferences import find_exposures, kept_preferences, preferences_of
from experiments.protocol import NeuralOnDay, prepare_day
from graphrec.training.preference import PreferenceConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

CPU = torch.device("cpu")
SMALL = PreferenceConfig(channels=4, num_members=2, epochs=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return load_inputs(path=write_slice(tmp_path_factory.mktemp("data") / "slice", sliced_log()))


def slow_exposures(inputs, roles):
    """Rows (user, item, label, known time) by a loop over the log."""
    rows = []
    for role in roles:
        shown, liked = defaultdict(int), defaultdict(int)
        for user, item, time, behavior, domain, known in inputs.tables.events.frame.select(
            "user_id", "item_id", "time", "behavior", "domain", "available_time"
        ).iter_rows():
            known = time if known is None else known
            if domain == role.domain and behavior in role.shown:
                shown[user, item, time] = max(shown[user, item, time], known)
            if domain == role.domain and behavior == role.liked:
                liked[user, item, time] = max(liked[user, item, time], known)
        rows += [
            (user, item, float((user, item, time) in liked), max(known, liked.get((user, item, time), known)))
            for (user, item, time), known in shown.items()
        ]
    return rows


ROLES = {
    "early": None,
    "log": (
        ExposureRole("internal", ("impression",), "long_view"),
        ExposureRole("external", ("click", "skip"), "click"),
    ),
}


@pytest.mark.parametrize("roles", ROLES)
def test_exposures_equal_a_loop_over_the_log(inputs, roles):
    chosen = replace(inputs, exposures=ROLES[roles] or inputs.exposures)
    found = find_exposures(chosen)
    users, items = chosen.graph.ids["user"], chosen.graph.ids["item"]
    expected = slow_exposures(chosen, chosen.exposures)
    assert len(found) == len(expected) > 1000
    user = users.rows(pl.Series([row[0] for row in expected])).tolist()
    item = items.rows(pl.Series([row[1] for row in expected])).tolist()
    wanted = [(u, i, row[2], row[3]) for u, i, row in zip(user, item, expected, strict=True)]
    columns = (found.user, found.item, found.label, found.known_time)
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(wanted)
    assert 0.1 < found.label.mean() < 0.9


def test_vectors_of_a_day_are_kept_and_read_again(inputs, tmp_path):
    until = inputs.bounds("2022-04-27")[0]
    steps = []
    first, again = (
        kept_preferences(
            inputs, SMALL, until=until, folder=tmp_path, device=CPU, on_step=lambda d, n: steps.append((d, n))
        )
        for _ in range(2)
    )
    assert steps == [(day, 3) for day in (1, 2, 3)]
    assert torch.equal(first.time, torch.tensor(list(inputs.snapshot_times(until))))
    assert torch.equal(first.vectors["user"], again.vectors["user"])
    assert first.vectors["item"].shape == (3, len(inputs.data.item_fields.codes), 2 * 4 + 1)
    # another seed is another file
    model = LSTTMConfig(preference=SMALL)
    other = preferences_of(inputs, model, 1, until=until, folder=tmp_path, device=CPU)
    assert not torch.equal(first.vectors["user"], other.vectors["user"])
    assert len(list(tmp_path.glob("*.pt"))) == 2
    assert preferences_of(inputs, lsttm(), 0, until=until, folder=tmp_path, device=CPU) is None


def test_a_log_in_which_everything_is_known_at_once_has_no_column_for_it(inputs):
    events = inputs.tables.events
    at_once = replace(
        inputs.tables, events=replace(events, frame=events.frame.with_columns(available_time=pl.col("time")))
    )
    without = replace(inputs.tables, events=replace(events, frame=events.frame.drop("available_time")))
    found, expected = (find_exposures(replace(inputs, tables=tables)) for tables in (without, at_once))
    assert torch.equal(found.known_time, expected.known_time)
    assert torch.equal(found.label, expected.label)
    assert len(found) > 1000


def test_a_log_without_exposures_refuses_the_option(inputs, tmp_path):
    none = replace(inputs, exposures=())
    with pytest.raises(ValueError, match=r"KuaiRand-Pure \(part\) does not say what users were shown"):
        preferences_of(
            none,
            PREFERENCE["LSTTM + preference"],
            0,
            until=inputs.bounds("2022-04-27")[0],
            folder=tmp_path,
            device=CPU,
        )


@pytest.mark.parametrize("name", PREFERENCE)
def test_a_model_with_the_option_needs_the_vectors_and_reads_them(inputs, tmp_path, name):
    config = replace(PREFERENCE[name], preference=SMALL)
    day = prepare_day(inputs, "2022-04-27")
    if isinstance(config, LSTTMConfig):
        config = replace(config, long_term=False)
    with pytest.raises(ValueError, match="was given none: pass those of `preferences_of`"):
        NeuralOnDay(day, config, 0, updates={}, snapshots=None, device=CPU)
    vectors = preferences_of(inputs, config, 0, until=day.start, folder=tmp_path, device=CPU)
    model = NeuralOnDay(day, config, 0, updates={}, snapshots=None, preferences=vectors, device=CPU)
    assert model.model.preference.preference_channels == 2 * 4 + 1
    assert model.data.preferences is vectors
    plain = NeuralOnDay(day, replace(config, preference=None), 0, updates={}, snapshots=None, device=CPU)
    assert plain.data.preferences is None
    assert plain.model.preference is None


def test_other_baselines_do_not_read_them():
    with pytest.raises(ValueError, match="inputs of DeepFM and LSTTM, not of FM"):
        BaselineConfig(model="FM", preference=SMALL)
