"""Keys of parts: what changes them, what does not, and what a stored part must agree with."""

import json
from dataclasses import dataclass, make_dataclass, replace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import BaselineConfig, lsttm
from experiments.parts import PartSpec, PartStore, agrees, all_fields, changed_fields
from experiments.run_parts import TrainingCosts
from graphrec.training.online import OnlineConfig

UPDATES = {"none": OnlineConfig(form="none"), "updated": OnlineConfig()}


def spec(**changes):
    known = {"data": "kuairand", "day": "2022-05-04", "seed": 0, "model": lsttm(), "updates": UPDATES}
    return PartSpec(**{**known, **changes})


def test_every_ingredient_changes_the_key():
    other_rate = replace(lsttm(), optimizer=replace(lsttm().optimizer, learning_rate=0.5))
    specs = [
        spec(),
        spec(day="2022-05-05"),
        spec(seed=1),
        spec(model=other_rate),
        spec(model=BaselineConfig()),
        spec(updates={}),
        spec(updates={**UPDATES, "updated": OnlineConfig(learning_rate=0.5)}),
        spec(period_hours=2),
    ]
    keys = [one.key("a") for one in specs] + [spec().key("b")]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {20}


def test_the_models_own_form_of_update_decides_nothing():
    own = replace(lsttm(), online=OnlineConfig(form="chained", learning_rate=3.0))
    assert spec(model=own).key("a") == spec().key("a")
    assert spec(model=own).configuration() == spec().configuration()


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Before:
    size: int
    inner: Inner = Inner(0.1)


# the same class a week later: it has an option more
After = make_dataclass("Before", [("size", int), ("inner", Inner, Inner(0.1)), ("extra", int, 0)])


def test_a_new_option_at_its_default_keeps_the_key():
    assert changed_fields(After(3)) == changed_fields(Before(3)) == {"class": "Before", "size": 3}
    assert changed_fields(After(3, extra=1)) != changed_fields(Before(3))
    assert changed_fields(Before(3, Inner(0.5)))["inner"] == {"class": "Inner"}  # not the outer default
    assert agrees(all_fields(Before(3)), all_fields(After(3)))


def test_a_changed_default_is_noticed():
    changed = make_dataclass("Before", [("size", int), ("inner", Inner, Inner(0.2))])
    assert changed_fields(changed(3)) == changed_fields(Before(3))  # the key alone does not tell
    assert not agrees(all_fields(Before(3)), all_fields(changed(3)))
    assert not agrees(all_fields(After(3)), all_fields(Before(3)))  # an option that is gone


FORMS = {"label": [1, 0], "user": [0, 1], "item": [3, 2], "time": [5, 6], "score_none": [0.9, 0.1]}
FACTS = {
    "configuration": spec().configuration(),
    **{f"{name}_seconds": 1.0 for name in ("cpu", "training", "scoring", "updating", "earlier")},
    "num_rows": 2,
    "num_parameters": 7,
}


@pytest.fixture
def store(tmp_path):
    """A store with one finished part, as if it had been written."""
    store = PartStore(tmp_path, "a")
    path = tmp_path / f"{spec().key('a')}.json"
    path.write_text(json.dumps(FACTS))
    pl.DataFrame(FORMS).write_parquet(path.with_suffix(".parquet"))
    return store


def read(store):
    part = store.find(spec())
    return part.predictions("none", run="", model="", data="", seed=0).score.tolist()


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("size", [0, 9])
def test_a_cut_file_is_named_with_the_remedy(store, suffix, size):
    assert read(store) == [0.9, 0.1]
    path = store.find(spec()).path.with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{path.name} is cut or damaged .*: delete it .* run again"):
        read(store)
    if suffix == ".parquet":
        with pytest.raises(ValueError, match="is cut or damaged"):
            _ = store.find(spec()).forms


def test_missing_scores_and_facts_are_named_with_the_remedy(store):
    table = store.find(spec()).path
    path = table.with_suffix(".json")
    path.write_text(json.dumps({"configuration": spec().configuration(), "num_rows": 2}))
    with pytest.raises(ValueError, match=rf"{path.name} lacks \['cpu_seconds', .*: delete it and run again"):
        store.find(spec())
    path.write_text("[1]")
    with pytest.raises(ValueError, match="holds no facts of a part: delete it"):
        store.find(spec())
    path.write_text(json.dumps(FACTS))
    table.unlink()
    with pytest.raises(ValueError, match=rf"{table.name} is missing: delete the part's JSON file and run"):
        store.find(spec())


@given(st.recursive(st.none() | st.integers(0, 3) | st.booleans(), st.lists))
def test_plain_values_agree_with_themselves_alone(value):
    assert agrees(all_fields(value), all_fields(value))
    assert not agrees(all_fields(value), all_fields([value]))


def test_a_trainings_seconds_outlive_a_kill(tmp_path, monkeypatch):
    clock = iter([10.0, 11.0, 14.0, 50.0, 53.5])
    monkeypatch.setattr("experiments.run_parts.time.process_time", lambda: next(clock))
    path = tmp_path / "checkpoints" / "part.seconds"
    first = TrainingCosts(path, torch.device("cpu"))
    assert first.earlier == 0.0, "nothing was spent before"
    for step in range(3):
        first(step, 9)
    assert float(path.read_text()) == 4.0, "since the first step, which came at 10"
    second = TrainingCosts(path, torch.device("cpu"))  # the first was killed
    assert second.earlier == 4.0
    for step in range(3, 5):
        second(step, 9)
    assert float(path.read_text()) == 7.5
