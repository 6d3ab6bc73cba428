"""Multi-task training: interleaving by counts, weights by hand, gain by a shared signal, resume, transfer."""

import copy
import math
from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from graphrec.encoders.behavior_sequences import BehaviorSequences, SequenceSizes
from graphrec.encoders.dupn import DUPN
from graphrec.encoders.fit_until import FittedUntil
from graphrec.models.dupn_heads import ClassHead, TaskRows
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.loop import OptimizerConfig
from graphrec.training.multi_task import (
    MultiTaskConfig,
    MultiTaskModel,
    TaskData,
    TaskSchedule,
    fit_tasks,
    load_weights,
    score_task,
    transfer,
)

IN = 12


@dataclass(frozen=True)
class Points:
    """The simplest inputs: a vector for each query."""

    value: torch.Tensor

    def __len__(self):
        return len(self.value)

    def take(self, query):
        return Points(self.value[query])

    def to(self, device):
        return Points(self.value.to(device))


class Encoder(FittedUntil):
    """A narrow linear map, so that tasks must share what it keeps."""

    def __init__(self, channels=1, dropout=0.0):
        super().__init__()
        self.out_channels, self.lin, self.dropout = channels, nn.Linear(IN, channels), nn.Dropout(dropout)

    def forward(self, points):
        return self.dropout(self.lin(points.value))


def class_rows(label, *, query=None):
    size = len(label)
    return TaskRows(
        query=torch.arange(size) if query is None else query,
        label=label.float(),
        weight=torch.ones(size),
        entity=torch.zeros(size, 0, dtype=torch.int64),
        features=torch.zeros(size, 0),
    )


def planted(num_rows, direction, *, seed, first_time=0):
    value = torch.randn(num_rows, IN, generator=torch.Generator().manual_seed(seed))
    time = first_time + torch.arange(num_rows)
    return TaskData(
        inputs=Points(value), time=time, rows=class_rows(value @ direction > 0), known_time=time + 1
    )


def config(interleaving="proportional", *, epochs=1, batch_size=4, rate=0.05, **options):
    optimizer = OptimizerConfig(
        name="adagrad",
        learning_rate=rate,
        embedding_learning_rate=rate,
        weight_decay=0.0,
        decay=False,
        epochs=epochs,
        batch_size=batch_size,
    )
    return MultiTaskConfig(interleaving=interleaving, optimizer=optimizer, **options)


def make_model(names, *, channels=1, dropout=0.0, **options):
    torch.manual_seed(0)
    heads = {name: ClassHead(channels, 2, hidden_channels=8) for name in names}
    return MultiTaskModel(Encoder(channels, dropout), heads, **options)


def parameters_of(model):
    return {name: value.clone() for name, value in model.named_parameters()}


def accuracy(model, name, data):
    return float((score_task(model, name, data).argmax(dim=1) == data.rows.label).float().mean())


def test_in_proportion_every_row_of_every_task_is_taken_once_an_epoch():
    schedule = TaskSchedule({"a": 10, "b": 3, "c": 4}, config())
    assert schedule.num_steps == 3 + 1 + 1
    epochs = []
    for epoch in range(2):
        taken, tasks = Counter(), []
        for number in range(schedule.num_steps):
            ((name, row),) = schedule.step(epoch, number)
            tasks.append(name)
            taken.update((name, one) for one in row.tolist())
        assert set(taken.values()) == {1}
        assert Counter(name for name, _ in taken) == {"a": 10, "b": 3, "c": 4}
        epochs.append((tasks, list(taken)))
    assert epochs[0] != epochs[1]


def test_in_turn_small_tasks_begin_anew():
    schedule = TaskSchedule({"a": 10, "b": 3, "c": 5}, config("in turn"))
    assert schedule.num_steps == 9  # the largest has three batches
    taken, tasks = Counter(), []
    for epoch in range(2):
        for number in range(9):
            ((name, row),) = schedule.step(epoch, number)
            tasks.append(name)
            taken.update((name, one) for one in row.tolist())
    assert tasks == ["a", "b", "c"] * 6
    # of b, one batch holds all: six passes; of c, six batches are three passes; of a two
    assert taken == {("a", i): 2 for i in range(10)} | {("b", i): 6 for i in range(3)} | {
        ("c", i): 3 for i in range(5)
    }


def test_together_each_step_takes_a_batch_of_every_task():
    turns, steps = (TaskSchedule({"a": 10, "b": 3}, config(how)) for how in ("in turn", "together"))
    assert steps.num_steps == 3
    for number in range(3):
        pair = steps.step(1, number)
        assert [name for name, _ in pair] == ["a", "b"]
        for place, (_, row) in enumerate(pair):
            assert torch.equal(turns.step(1, 2 * number + place)[0][1], row)


def test_a_tasks_order_depends_on_neither_other_tasks_nor_the_order_of_calls():
    alone, among = TaskSchedule({"a": 10}, config()), TaskSchedule({"b": 7, "a": 10}, config("in turn"))
    rows_alone = torch.cat(
        [row for number in range(3) for name, row in alone.step(0, number)]
    )  # in another order of batches
    rows = torch.cat([row for number in range(6) for name, row in among.step(0, number) if name == "a"])
    batches = {tuple(part.tolist()) for part in rows.split(4)}
    assert torch.equal(rows_alone.sort().values, torch.arange(10))
    again = TaskSchedule({"a": 10}, config())
    assert {tuple(again.step(0, number)[0][1].tolist()) for number in (2, 0, 1)} == batches


def test_task_weights_and_uncertainty_by_hand():
    data = {name: planted(4, torch.ones(IN), seed=seed) for seed, name in enumerate("ab")}
    model = make_model("ab", uncertainty=True)
    with torch.no_grad():
        model.log_variance.copy_(torch.tensor([0.5, -1.0]))
        loss = {
            name: model.heads[name].loss(model(name, task.inputs, task.rows), task.rows).item()
            for name, task in data.items()
        }
    wanted = 2 * (math.exp(-0.5) * loss["a"] + 0.25) + (math.exp(1.0) * loss["b"] - 0.5)
    before = parameters_of(model)
    found = fit_tasks(
        model,
        data,
        fit_until=10,
        config=config("together", rate=0.1, task_weights={"a": 2.0}),
        log_every=1,
    )
    assert found[0].loss == pytest.approx(wanted, rel=1e-6)
    # Adagrad's first step is the rate times the sign; d/ds = w (1/2 - exp(-s) L)
    slope = [2 * (0.5 - math.exp(-0.5) * loss["a"]), 0.5 - math.exp(1.0) * loss["b"]]
    wanted_step = torch.tensor([-0.1 * math.copysign(1, one) for one in slope])
    torch.testing.assert_close(model.log_variance - before["log_variance"], wanted_step)
    plain = make_model("ab")
    found = fit_tasks(plain, data, fit_until=10, config=config("together", rate=0.1), log_every=1)
    assert found[0].loss == pytest.approx(loss["a"] + loss["b"], rel=1e-6)


def test_a_weight_of_zero_learns_nothing_of_the_task():
    data = {name: planted(8, torch.ones(IN), seed=seed) for seed, name in enumerate("ab")}
    model = make_model("ab")
    before = parameters_of(model)
    fit_tasks(model, data, fit_until=10, config=config("together", task_weights={"b": 0.0}))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("heads.a") for name in moved)
    assert not any(name.startswith("heads.b") for name in moved)


def test_the_small_task_gains_by_a_large_one_with_the_same_signal_and_by_no_other():
    generator = torch.Generator().manual_seed(5)
    signal, other = torch.linalg.qr(torch.randn(IN, 2, generator=generator)).Q.T
    small, test = planted(16, signal, seed=1), planted(1000, signal, seed=2, first_time=5000)

    def result(direction):
        data = {"small": small}
        if direction is not None:
            data["large"] = planted(768, direction, seed=3)
        model = make_model(sorted(data))
        # as many steps of the small task in all three
        epochs = 18 if direction is None else 6
        fit_tasks(
            model,
            data,
            fit_until=5000,
            config=config("in turn", epochs=epochs, batch_size=256, rate=0.3),
        )
        return accuracy(model, "small", test)

    alone, shared, unrelated = result(None), result(signal), result(other)
    assert shared > 0.9
    assert shared > alone + 0.1
    assert unrelated < alone


def test_training_goes_on_bit_for_bit(tmp_path):
    data = {"a": planted(21, torch.ones(IN), seed=1), "b": planted(9, torch.ones(IN), seed=2)}
    options = {"fit_until": 50, "config": config(epochs=3), "checkpoint_every": 4}
    whole = make_model("ab", dropout=0.3, uncertainty=True)
    fit_tasks(whole, data, **options)

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 11:
            raise Stop

    broken, path = make_model("ab", dropout=0.3, uncertainty=True), tmp_path / "run.pt"
    with pytest.raises(Stop):
        fit_tasks(broken, data, checkpoint=path, on_step=stop, **options)
    resumed = make_model("ab", dropout=0.3, uncertainty=True)
    torch.manual_seed(99)
    fit_tasks(resumed, data, checkpoint=path, **options)
    for name, value in whole.named_parameters():
        assert torch.equal(value, resumed.get_parameter(name)), name
    assert resumed.encoder.fit_until == 50


@pytest.mark.parametrize("keep_optimizer", [False, True])
def test_a_new_day_goes_on_from_a_checkpoint(tmp_path, keep_optimizer):
    first, second = planted(20, torch.ones(IN), seed=1), planted(12, torch.ones(IN), seed=2, first_time=100)
    paths = [tmp_path / "first.pt", tmp_path / "second.pt"]
    model = make_model("a")
    fit_tasks(model, {"a": first}, fit_until=50, config=config(), checkpoint=paths[0])
    at_first = parameters_of(model)
    day = make_model("a")
    fit_tasks(
        day,
        {"a": second},
        fit_until=200,
        config=config(),
        start=paths[0],
        keep_optimizer=keep_optimizer,
        checkpoint=paths[1],
    )
    assert day.encoder.fit_until == 200
    # by hand: one step after the other from the first day's weights, with its sums of squares or without
    model = make_model("a")
    model.load_state_dict(load_checkpoint(paths[0])["model"])
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    if keep_optimizer:
        optimizer.load_state_dict(load_checkpoint(paths[0])["optimizer"])
    schedule = TaskSchedule({"a": 12}, config())
    for number in range(schedule.num_steps):
        ((_, row),) = schedule.step(0, number)
        row = row.sort().values
        optimizer.zero_grad()
        rows = class_rows(second.rows.label[row])
        model.heads["a"].loss(model("a", second.inputs.take(row), rows), rows).backward()
        optimizer.step()
    assert any(not torch.equal(value, at_first[name]) for name, value in model.named_parameters())
    for name, value in model.named_parameters():
        torch.testing.assert_close(day.get_parameter(name), value, rtol=1e-5, atol=1e-7)
    steps = [int(state["step"]) for state in load_checkpoint(paths[1])["optimizer"]["state"].values()]
    assert set(steps) == ({5 + 3} if keep_optimizer else {3})
    # and a run that has ended changes nothing when it is asked again
    again = make_model("a")
    fit_tasks(again, {"a": second}, fit_until=200, config=config(), start=paths[0], checkpoint=paths[1])
    for name, value in day.named_parameters():
        assert torch.equal(value, again.get_parameter(name))


@pytest.fixture(scope="module")
def source():
    signal = torch.eye(IN)[0]
    model = make_model(["large"])
    fit_tasks(
        model,
        {"large": planted(768, signal, seed=3)},
        fit_until=2000,
        config=config(epochs=6, batch_size=256, rate=0.3),
    )
    return model


def transferred(how, source):
    signal = torch.eye(IN)[0]
    data = {"new": planted(24, signal, seed=1), "large": planted(768, signal, seed=3)}
    options = config("in turn", epochs=18 if how != "all" else 6, batch_size=256, rate=0.3)
    before = parameters_of(source)
    model = transfer(
        how, "new", data, source=source, make=lambda names: make_model(names), fit_until=2000, config=options
    )
    assert all(torch.equal(value, before[name]) for name, value in source.named_parameters())
    return model, accuracy(model, "new", planted(600, signal, seed=2, first_time=5000))


def test_four_ways_of_transfer(source):
    models, results = {}, {}
    for how in ("representation", "fine-tune", "single", "all"):
        models[how], results[how] = transferred(how, source)
    kept = models["representation"].encoder.lin.weight
    assert torch.equal(kept, source.encoder.lin.weight)
    assert not torch.equal(models["fine-tune"].encoder.lin.weight, kept)
    assert {how: list(model.heads) for how, model in models.items()} == {
        "representation": ["new"],
        "fine-tune": ["new"],
        "single": ["new"],
        "all": ["large", "new"],
    }
    assert min(results["representation"], results["fine-tune"], results["all"]) > results["single"] + 0.05


def test_a_frozen_encoder_is_run_once_and_gives_what_it_would_give_step_by_step():
    data = {"a": planted(20, torch.ones(IN), seed=1)}
    frozen, by_rate = make_model("a", channels=3), make_model("a", channels=3)
    frozen.freeze_encoder()
    calls = []
    frozen.encoder.register_forward_hook(lambda *_: calls.append(1))
    fit_tasks(frozen, data, fit_until=50, config=config(epochs=2))
    assert len(calls) == 1
    # the other way to hold it: gradients of the encoder are thrown away
    for parameter in by_rate.encoder.parameters():
        parameter.register_hook(torch.zeros_like)
    fit_tasks(by_rate, data, fit_until=50, config=config(epochs=2))
    for name, value in by_rate.named_parameters():
        torch.testing.assert_close(frozen.get_parameter(name), value, rtol=1e-6, atol=1e-7)


def test_scores_read_no_labels_and_each_query_is_encoded_once():
    data = planted(30, torch.ones(IN), seed=1, first_time=100)
    many = TaskData(
        inputs=data.inputs,
        time=data.time,
        rows=class_rows(torch.zeros(90), query=torch.arange(90) % 30),
        known_time=data.known_time[torch.arange(90) % 30],
    )
    model, rows = make_model("a", dropout=0.5), []
    fit_tasks(model, {"a": planted(20, torch.ones(IN), seed=2)}, fit_until=100, config=config())
    model.encoder.register_forward_hook(lambda _, given, out: rows.append(len(out)))
    score = score_task(model, "a", many, batch_size=8, row_batch_size=17)
    assert sum(rows) == 30
    assert torch.equal(score[:30], score[60:])
    flipped = TaskData(
        inputs=many.inputs, time=many.time, rows=class_rows(torch.ones(90), query=many.rows.query),
        known_time=many.known_time,
    )  # fmt: skip
    assert torch.equal(score_task(model, "a", flipped, batch_size=8, row_batch_size=17), score)


def test_labels_of_later_become_no_weights():
    data = planted(40, torch.ones(IN), seed=1)
    later = data.rows.label.clone()
    later[20:] = 1 - later[20:]
    changed = TaskData(inputs=data.inputs, time=data.time, rows=class_rows(later), known_time=data.known_time)
    scores = []
    for one in (data, changed):
        model = make_model("a")
        fit_tasks(model, {"a": one.between(0, 20, known_before=20)}, fit_until=20, config=config())
        scores.append(score_task(model, "a", one.between(20, 40)))
    assert torch.equal(*scores)
    assert len(data.between(0, 20, known_before=20).rows) == 19  # the last one's label comes at 20


def test_dupn_with_a_learned_query_for_a_task():
    generator = torch.Generator().manual_seed(0)
    sizes = SequenceSizes(item=(9,), properties=(5, 4), profile=(3,))
    length = torch.randint(0, 6, (24,), generator=generator)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)])
    sequences = BehaviorSequences(
        ptr=ptr,
        item=torch.randint(0, 9, (int(ptr[-1]), 1), generator=generator),
        properties=torch.randint(0, 4, (int(ptr[-1]), 2), generator=generator),
        profile=torch.randint(0, 3, (24, 1), generator=generator),
        query=torch.zeros(24, 0, dtype=torch.int64),
    )
    torch.manual_seed(0)
    dupn = DUPN(
        sizes, item_channels=4, property_channels=3, hidden_channels=6, user_channels=5, query_channels=4
    )
    heads = {name: ClassHead(dupn.out_channels, 2, hidden_channels=4) for name in "ab"}
    model = MultiTaskModel(dupn, heads, learned_queries=["a"], query_channels=dupn.query_channels)
    time = torch.arange(24)
    label = torch.randint(0, 2, (24,), generator=generator)
    data = TaskData(inputs=sequences, time=time, rows=class_rows(label), known_time=time)
    before = parameters_of(model)
    fit_tasks(model, {"a": data, "b": data}, fit_until=30, config=config("together", epochs=2))
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == (value.numel() == 0), name  # no_query serves b
    wanted = dupn(sequences, model.query["a"].expand(24, -1))
    torch.testing.assert_close(model.represent("a", sequences), wanted)
    assert not torch.equal(model.represent("b", sequences), wanted)


def test_errors(tmp_path):
    data, model = {"a": planted(5, torch.ones(IN), seed=1)}, make_model("a")
    with pytest.raises(ValueError, match=r"1 labels of 'a' became known at or after fit_until=5"):
        fit_tasks(model, data, fit_until=5)
    with pytest.raises(ValueError, match=r"without a head \['b'\]"):
        fit_tasks(model, {"b": data["a"]}, fit_until=9)
    with pytest.raises(ValueError, match=r"without rows \['a'\]"):
        fit_tasks(model, {"a": data["a"].between(90, 91)}, fit_until=9)
    with pytest.raises(ValueError, match=r"weights of unknown tasks \['c'\]"):
        fit_tasks(model, data, fit_until=9, config=config(task_weights={"c": 1.0}))
    with pytest.raises(ValueError, match="fit_until must be an int, got True"):
        fit_tasks(model, data, fit_until=True)
    for option in ({"checkpoint_every": 0}, {"log_every": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            fit_tasks(model, data, fit_until=9, config=config(), **option)
    with pytest.raises(ValueError, match="give start and checkpoint"):
        fit_tasks(model, data, fit_until=9, keep_optimizer=True, checkpoint=tmp_path / "x.pt")
    fit_tasks(model, data, fit_until=9, config=config())
    with pytest.raises(ValueError, match="pre-trained on data until 9, labels begin at 0"):
        score_task(model, "a", data["a"])
    with pytest.raises(ValueError, match="no head of 'b'"):
        score_task(model, "b", data["a"])
    with pytest.raises(ValueError, match="known before its query"):
        TaskData(inputs=Points(torch.zeros(1, IN)), time=torch.tensor([5]), rows=class_rows(torch.ones(1)),
                 known_time=torch.tensor([4]))  # fmt: skip
    with pytest.raises(ValueError, match="does not know"):
        transfer("single", "a", data, source=model, make=make_model, fit_until=9)
    with pytest.raises(ValueError, match=r"learned queries of unknown tasks \['z'\]"):
        make_model("a", learned_queries=["z"], query_channels=2)
    with pytest.raises(ValueError, match="task_weights must be finite"):
        config(task_weights={"a": -1.0})


# ---- runs again, and other runs -------------------------------------------------------------------


def test_a_script_that_is_run_again_goes_on_from_its_own_checkpoints(tmp_path):
    first, second = planted(20, torch.ones(IN), seed=1), planted(12, torch.ones(IN), seed=2, first_time=100)
    ten, eleven = str(tmp_path / "ten.pt"), tmp_path / "eleven.pt"

    def script(model):
        fit_tasks(model, {"a": first}, fit_until=100, config=config(), checkpoint=ten)
        fit_tasks(model, {"a": second}, fit_until=200, config=config(), start=ten, checkpoint=eleven)
        return parameters_of(model)

    model = make_model("a")
    wanted = script(model)
    for one in (make_model("a"), model):  # a new process, and the same one
        found = script(one)
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
        assert one.fit_until == one.encoder.fit_until == 200


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"data": {"a": planted(21, torch.ones(IN), seed=2)}}, "rows.a is "),
        ({"config": config(epochs=1, random_seed=1)}, "random_seed is 1, the checkpoint has 0"),
        ({"config": config(rate=0.1)}, "optimizer.learning_rate is 0.1, the checkpoint has 0.05"),
        ({"config": config("together")}, 'interleaving is "together", the checkpoint has "proportional"'),
        ({"config": config(task_weights={"a": 2.0})}, "task_weights.a is 2.0, the checkpoint has none"),
        ({"fit_until": 60}, "fit_until is 60, the checkpoint has 50"),
        ({"made_from": {"seed": 3}}, "seed is 3, the checkpoint has none"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, said):
    options = {"data": {"a": planted(21, torch.ones(IN), seed=1)}, "fit_until": 50, "config": config()}
    path = tmp_path / "run.pt"
    fit_tasks(make_model("a"), **options, checkpoint=path)
    model = make_model("a")
    before = parameters_of(model)
    with pytest.raises(ValueError, match=f"checkpoint of another run: .*{said}"):
        fit_tasks(model, **(options | other), checkpoint=path)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert model.fit_until is None


def test_queries_that_no_row_names_make_no_other_run(tmp_path):
    whole = planted(30, torch.ones(IN), seed=1)
    few = TaskData(
        inputs=whole.inputs.take(torch.arange(20)),
        time=whole.time[:20],
        rows=whole.rows.take(torch.arange(20)),
        known_time=whole.known_time[:20],
    )
    path = tmp_path / "run.pt"
    fit_tasks(make_model("a"), {"a": few}, fit_until=50, config=config(), checkpoint=path)
    some = whole.take(torch.arange(20))
    assert fit_tasks(make_model("a"), {"a": some}, fit_until=50, config=config(), checkpoint=path) == []


def test_files_of_other_things_are_named(tmp_path):
    data, path = {"a": planted(5, torch.ones(IN), seed=1)}, tmp_path / "other.pt"
    torch.save({"state": 1}, path)
    with pytest.raises(ValueError, match=r"other.pt is not a checkpoint of fit_tasks: it holds \['state'\]"):
        fit_tasks(make_model("a"), data, fit_until=9, config=config(), start=path)
    torch.save({"model": make_model("ab").state_dict()}, path)
    model = make_model("a")
    with pytest.raises(ValueError, match=r"heads \['a', 'b'\], this one has \['a'\]"):
        fit_tasks(model, data, fit_until=9, config=config(), start=path)
    torch.save({"model": make_model("a", channels=2).state_dict()}, path)
    with pytest.raises(ValueError, match=r"other shapes: encoder.lin.weight and \d others"):
        fit_tasks(model, data, fit_until=9, config=config(), start=path)
    assert model.fit_until is None


# ---- until when ------------------------------------------------------------------------------------


class Timeless(nn.Module):
    """An encoder that does not know until when it was fitted."""

    def __init__(self):
        super().__init__()
        self.out_channels, self.lin = 1, nn.Linear(IN, 1)

    def forward(self, points):
        return self.lin(points.value)


def test_what_was_trained_on_is_not_scored_whatever_the_encoder():
    data = planted(20, torch.ones(IN), seed=1)
    model = MultiTaskModel(Timeless(), {"a": ClassHead(1, 2)})
    fit_tasks(model, {"a": data}, fit_until=50, config=config())
    again = MultiTaskModel(Timeless(), {"a": ClassHead(1, 2)})
    again.load_state_dict(model.state_dict())
    for one in (model, again, copy.deepcopy(model)):
        with pytest.raises(ValueError, match="until 50, labels begin at 0"):
            score_task(one, "a", data)
    score_task(model, "a", planted(5, torch.ones(IN), seed=1, first_time=50))


@pytest.mark.parametrize("lacking", ["_extra_state", "encoder._extra_state"])
def test_weights_without_the_time_until_which_they_were_fitted_are_refused(tmp_path, lacking):
    data, path = {"a": planted(20, torch.ones(IN), seed=1)}, tmp_path / "weights.pt"
    model = make_model("a")
    fit_tasks(model, data, fit_until=50, config=config())
    torch.save({"model": {k: v for k, v in model.state_dict().items() if k != lacking}}, path)
    with pytest.raises(ValueError, match=rf"weights.pt does not say until when .* lacks \['{lacking}'\]"):
        fit_tasks(make_model("a"), data, fit_until=50, config=config(), start=path)


def test_a_model_that_refuses_weights_keeps_its_time(tmp_path):
    def make(made_by):
        sizes = SequenceSizes(item=(9,), properties=(5,), made_by=made_by)
        dupn = DUPN(
            sizes, item_channels=4, property_channels=3, hidden_channels=6, user_channels=5, query_channels=4
        )
        return MultiTaskModel(dupn, {"a": ClassHead(dupn.out_channels, 2)})

    path, time = tmp_path / "weights.pt", torch.arange(3)
    stored, model = make("one"), make("another")
    stored.fit_until = stored.encoder.fit_until = 9
    model.fit_until = model.encoder.fit_until = 50
    torch.save({"model": stored.state_dict()}, path)
    data = TaskData(inputs=time, time=time, rows=class_rows(torch.ones(3)), known_time=time)
    with pytest.raises(ValueError, match="weights are of codes of tokenizer one, this encoder of another"):
        fit_tasks(model, {"a": data}, fit_until=50, config=config(), start=path)
    assert model.fit_until == model.encoder.fit_until == 50
    load_weights(again := make("one"), path, load_checkpoint(path)["model"])
    again.fit_until = 50  # its own time does not count where all weights are replaced
    load_weights(again, path, load_checkpoint(path)["model"])
    assert again.fit_until == again.encoder.fit_until == 9


def test_what_a_source_saw_stays_seen(source):
    model = transfer(
        "representation", "new", {"new": planted(24, torch.ones(IN), seed=1)}, source=source,
        make=make_model, fit_until=100, config=config(),
    )  # fmt: skip
    assert model.fit_until == source.fit_until == 2000


# ---- rows and names that cannot be -----------------------------------------------------------------


def changed(data, **values):
    rows = {name: value for name, value in values.items() if name in vars(data.rows)}
    rest = {name: value for name, value in values.items() if name not in rows}
    return replace(data, rows=replace(data.rows, **rows), **rest)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weight": torch.tensor([1, 1, -1.0, 1, 1])}, "weights must be .* got -1 in row 2"),
        ({"weight": torch.tensor([1, float("nan"), 1, 1, 1])}, "got nan in row 1"),
    ],
)
def test_rows_that_cannot_be(values, said):
    with pytest.raises(ValueError, match=said):
        changed(planted(5, torch.ones(IN), seed=1), **values)


def test_rows_of_other_lengths_and_times_of_other_types():
    data = planted(5, torch.ones(IN), seed=1)
    rows = object.__new__(TaskRows)
    vars(rows).update({**vars(data.rows), "label": torch.zeros(4)})
    check = getattr(TaskData.__post_init__, "__wrapped__", TaskData.__post_init__)
    for values, said in (
        ({"rows": rows}, r"'label': 4"),
        ({"time": torch.arange(5.0)}, r"int64, got \['torch.float32'"),
    ):
        one = object.__new__(TaskData)
        vars(one).update({**vars(data), **values})
        with pytest.raises(ValueError, match=said):
            check(one)


@pytest.mark.parametrize("wrong", [2.0, 0.5, -1.0, float("nan")])
def test_labels_that_cannot_be_are_refused_before_training_but_not_read_in_scoring(wrong):
    data = planted(5, torch.ones(IN), seed=1)
    label = data.rows.label.clone()
    label[3] = wrong
    data, model = changed(data, label=label), make_model("a")
    with pytest.raises(ValueError, match=r"task 'a': labels of a ClassHead are 0, 1, got .* in row 3"):
        fit_tasks(model, {"a": data}, fit_until=9, config=config())
    score_task(model, "a", data)


def test_features_that_are_not_finite():
    data = changed(planted(5, torch.ones(IN), seed=1), features=torch.full((5, 1), float("nan")))
    for call in (
        lambda: fit_tasks(make_model("a"), {"a": data}, fit_until=9, config=config()),
        lambda: score_task(make_model("a"), "a", data),
    ):
        with pytest.raises(ValueError, match="features of row 0 and 4 others are not finite"):
            call()


@pytest.mark.parametrize("name", ["", "a.b", "keys", "training"])
def test_names_that_torch_cannot_take(name):
    with pytest.raises(ValueError, match="cannot be names of tasks"):
        make_model([name])


def test_task_weights_are_numbers():
    for wrong in ("1", None):
        given = object.__new__(MultiTaskConfig)
        vars(given).update({**vars(config()), "task_weights": {"a": wrong}})
        with pytest.raises(ValueError, match="task_weights must be finite numbers"):
            given.__post_init__()
