"""The Meta-Profile Network: its parts, and a toy that meta-training solves without a gradient step."""

import inspect
from dataclasses import replace

import polars as pl
import pytest
import torch

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from graph_builders.feature_table import build_feature_table
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.encoders.input_reader import InputReader
from graphrec.evaluation import auc
from graphrec.models.meta_profile import (
    DemographicFields,
    DemographicNetwork,
    ProfileNetwork,
    PrototypeSimilarity,
    RelationModule,
    concatenate_inputs,
)
from graphrec.training.episodes import EpisodeConfig, predict_few_shot
from graphrec.training.meta_profile import (
    embed,
    fit_multi_task,
    meta_train,
    read_profile_inputs,
    task_label_matrix,
)
from graphrec.training.stages import StagesConfig
from tests.graphrec.encoders.toy_heatmaps import at, encoding_of, graph_of
from tests.graphrec.toy_profiles import (
    CHANNELS,
    TARGET,
    labels_of_kinds,
    toy_profile,
    toy_users,
)

SHORT = StagesConfig(
    adam_steps=70, adam_rates=(1e-3, 1e-2), cycle_steps=35, sgd_steps=10, sgd_rate=1e-2, restart_steps=10
)
EPISODES = EpisodeConfig(num_ways=4, num_shots=2)
NOW = at("2011-07-10 04:00")


@pytest.mark.parametrize(("name", "planted"), [("relation", True), ("relation", False), ("prototypes", True)])
def test_an_unseen_task_is_solved_without_a_gradient_step_and_not_where_nothing_is_planted(name, planted):
    (inputs, kind), (target, target_kind) = toy_users(240), toy_users(160, seed=1)
    if not planted:
        kind = kind[torch.randperm(len(kind), generator=torch.Generator().manual_seed(3))]
        order = torch.randperm(len(target_kind), generator=torch.Generator().manual_seed(4))
        target_kind = target_kind[order]
    profile = toy_profile()
    torch.manual_seed(1)
    similarity = RelationModule(16) if name == "relation" else PrototypeSimilarity()
    label = labels_of_kinds(kind)
    meta_train(profile, similarity, inputs, label, fit_until=9, episodes=EPISODES, config=SHORT)
    assert profile.fit_until == 9
    with pytest.raises(ValueError, match="the profile network was pre-trained on data until 9, labels b"):
        profile.check_before(8)
    embedding = embed(profile, target)
    wanted = torch.isin(target_kind, torch.tensor(TARGET)).float()
    score = predict_few_shot(similarity, embedding[40:], embedding[:40], wanted[:40])
    low, high = (0.95, 1.0) if planted else (0.3, 0.7)
    assert low <= auc(wanted[40:].numpy(), score.numpy()) <= high


def test_several_tasks_are_learnt_with_missing_labels_and_a_new_head_after_them():
    inputs, kind = toy_users(240)
    label = labels_of_kinds(kind)
    label[:, 5] = torch.nan
    label[:2, 5] = torch.tensor([0.0, 1.0])  # most batches have no label of this task
    model = fit_multi_task(toy_profile(), inputs, label, fit_until=7, config=SHORT)
    test, test_kind = toy_users(100, seed=1)
    wanted = labels_of_kinds(test_kind, missing=0.0)
    logit = embed(model, test)
    for task in range(5):
        assert auc(wanted[:, task].numpy(), logit[:, task].numpy()) > 0.9
    tuned = fit_multi_task(
        model.profile,
        inputs,
        torch.isin(kind, torch.tensor(TARGET)).float()[:, None],
        fit_until=8,
        config=SHORT,
    )
    assert tuned.profile is model.profile
    assert tuned.profile.fit_until == 8
    target = torch.isin(test_kind, torch.tensor(TARGET)).float()
    assert auc(target.numpy(), embed(tuned, test)[:, 0].numpy()) > 0.9


def test_training_goes_on_after_a_break_and_is_keyed(tmp_path):
    config = StagesConfig(adam_steps=3, cycle_steps=2, sgd_steps=3, restart_steps=2)
    inputs, kind = toy_users(60)
    label = labels_of_kinds(kind)

    def run(method, file=None, stop=None):
        def on_step(step, loss, rate):
            if step == stop:
                raise KeyboardInterrupt

        options = {"fit_until": 1, "config": config, "checkpoint": file, "checkpoint_every": 2}
        profile = toy_profile()
        torch.manual_seed(5)
        if method == "meta":
            similarity = RelationModule(16)
            torch.manual_seed(stop or 0)
            meta_train(profile, similarity, inputs, label, episodes=EPISODES, on_step=on_step, **options)
        else:
            fit_multi_task(profile, inputs, label, batch_size=20, on_step=on_step, **options)
        return profile.state_dict()

    for method in ("meta", "tasks"):
        whole = run(method)
        with pytest.raises(KeyboardInterrupt):
            run(method, tmp_path / method, stop=4)
        found = run(method, tmp_path / method)
        for name, value in whole.items():
            same = value == found[name] if isinstance(value, dict) else torch.equal(value, found[name])
            assert same, name


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    config = StagesConfig(adam_steps=1, cycle_steps=2, sgd_steps=1, restart_steps=2)
    (inputs, kind), (others, _) = toy_users(60), toy_users(60, seed=1)
    label = labels_of_kinds(kind)
    tasks, meta = tmp_path / "tasks", tmp_path / "meta"

    def fit(inputs=inputs, label=label, **options):
        options = {"fit_until": 1, "config": config, "checkpoint": tasks, **options}
        return fit_multi_task(toy_profile(), inputs, label, **options)

    def train(inputs=inputs, label=label, **options):
        options = {"fit_until": 1, "config": config, "episodes": EPISODES, "checkpoint": meta, **options}
        return meta_train(toy_profile(), RelationModule(16), inputs, label, **options)

    fit()
    assert train() == train()
    fit()
    for run, options, message in (
        (fit, {"inputs": others}, "inputs is "),
        (fit, {"label": 1 - label}, "labels is "),
        (fit, {"batch_size": 8}, "batch_size is 8, the checkpoint has 32"),
        (fit, {"fit_until": 2}, "fit_until is 2, the checkpoint has 1"),
        (fit, {"config": replace(config, random_seed=1)}, "config.random_seed is 1"),
        (train, {"inputs": others}, "inputs is "),
        (train, {"label": 1 - label}, "labels is "),
        (train, {"user": torch.arange(60)}, "users is .* has null"),
        (train, {"episodes": replace(EPISODES, random_seed=1)}, "episodes.random_seed is 1"),
        (train, {"checkpoint": tasks}, "episodes.num_ways is 4, the checkpoint has none"),
    ):
        with pytest.raises(ValueError, match=f"is the checkpoint of another run: .*{message}"):
            run(**options)


def test_a_frozen_g_stays_as_it_is():
    config = StagesConfig(adam_steps=2, cycle_steps=2, sgd_steps=1, restart_steps=2)
    inputs, kind = toy_users(60)
    label = labels_of_kinds(kind)
    profile = toy_profile().requires_grad_(False)
    before = {name: value for name, value in profile.state_dict().items() if isinstance(value, torch.Tensor)}
    before = {name: value.clone() for name, value in before.items()}
    model = fit_multi_task(profile, inputs, label, fit_until=1, config=config)
    relation = RelationModule(16)
    meta_train(profile, relation, inputs, label, fit_until=1, episodes=EPISODES, config=config)
    for name, value in before.items():
        assert torch.equal(profile.state_dict()[name], value), name
    assert not any(part.training for part in model.train().profile.modules())
    assert model.training
    assert all(part.training for part in profile.requires_grad_(True).train().modules())


# ---- parts ---------------------------------------------------------------------------------------


def user_fields():
    return build_feature_table(
        pl.DataFrame(
            {
                "age": pl.Series([30.0, 50.0, None, 100.0]),
                "city": ["a", None, "b", "a"],
                "tags": [["x"], [], None, ["y"]],
            }
        )
    )


def test_demographics_are_standardised_and_may_be_missing():
    fields = DemographicFields.fit(user_fields(), ["age", "city"], torch.tensor([0, 1, 2]))
    assert fields.numbers == {"age": (40.0, 10.0)}
    assert fields.categories == {"city": 3}
    assert fields.names == ("age", "city")
    number, code = fields.read(user_fields())
    assert code.tolist() == [[1], [0], [2], [1]]
    torch.manual_seed(0)
    network = DemographicNetwork(fields, out_channels=5, embedding_channels=2)
    seen = []
    network.layers.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vector = network(number, code)
    assert vector.shape == (4, 5)
    assert vector.isfinite().all()
    assert seen[0][:, :2].tolist() == [[-1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [6.0, 1.0]]
    assert torch.equal(seen[0][:, 2:], network.embedding[0].weight[[1, 0, 2, 1]])
    with pytest.raises(ValueError, match="field 'tags' must be a number or a category"):
        DemographicFields.fit(user_fields(), ["tags"], torch.tensor([0]))
    with pytest.raises(ValueError, match="none of the 1 users has a 'age'"):
        DemographicFields.fit(user_fields(), ["age"], torch.tensor([2]))
    alike = DemographicFields.fit(user_fields(), ["age"], torch.tensor([1]))
    assert alike.numbers == {"age": (50.0, 1.0)}


def events():
    return [
        (user, item, NOW - 3600 * hours, returned, 3.0 + user, "x")
        for user, item, hours, returned in (
            (0, 0, 5, False), (0, 1, 30, True), (1, 2, 100, False), (2, 0, 200, False), (2, 1, 1, True),
        )
    ]  # fmt: skip


def network_of(graph, *, seed=0):
    torch.manual_seed(seed)
    modalities = {}
    for name, channels in (("all", None), ("few", CHANNELS)):
        encoding = encoding_of(14) if channels is None else encoding_of(28, channels)
        levels = narrow_levels(LEVELS[encoding.num_days], 16)
        cnn = HeatmapCNN(len(encoding.channels), encoding.num_days, levels=levels)
        modalities[name] = HeatmapEncoder(encoding, cnn)
    fields = DemographicFields.fit(graph.features["user"], ["age", "city"], torch.arange(3))
    return ProfileNetwork(modalities, demographics=fields, out_channels=12).eval()


def test_several_modalities_and_demographics_are_one_encoder():
    graph = graph_of(events())
    profile = network_of(graph)
    assert {name: request.window for name, request in profile.requests.items()} == {
        "all": 14 * 86_400,
        "few": 28 * 86_400,
    }
    assert profile.fields == ("age", "city")
    user, time = torch.tensor([0, 1, 2, 0]), torch.tensor([NOW, NOW, NOW, NOW - 86_400])
    reader = InputReader(graph, "user", profile.requests, fields=profile.fields)
    whole = profile.prepare(reader.read(user, time))
    parts = read_profile_inputs(reader, profile, user, time, max_events=1)
    vectors = embed(profile, whole)
    assert vectors.shape == (4, profile.out_channels) == (4, 12)
    torch.testing.assert_close(embed(profile, parts, batch_size=3), vectors)
    assert vectors.unique(dim=0).shape == vectors.shape
    for row in range(4):  # in evaluation, no row hears of another
        torch.testing.assert_close(embed(profile, whole.take(torch.tensor([row]))), vectors[row : row + 1])
    both = concatenate_inputs([whole, whole.take(torch.tensor([2]))])
    torch.testing.assert_close(embed(profile, both)[[0, 4]], vectors[[0, 2]])
    with pytest.raises(ValueError, match="no query to read a history for"):
        read_profile_inputs(reader, profile, user[:0], time[:0])
    with pytest.raises(ValueError, match="at least one part"):
        concatenate_inputs([])
    with pytest.raises(ValueError, match="at least one modality"):
        ProfileNetwork({})
    profile.train()(whole).square().sum().backward()
    for name, parameter in profile.named_parameters():
        assert parameter.grad is not None, name


def test_an_event_from_the_query_time_on_changes_no_embedding_and_the_newest_one_does():
    profile = network_of(graph_of(events()))

    def vectors(log):
        reader = InputReader(graph_of(log), "user", profile.requests, fields=profile.fields)
        time = torch.full((3,), NOW)
        return embed(profile, profile.prepare(reader.read(torch.arange(3), time)))

    before = vectors(events())
    assert torch.equal(vectors([*events(), (0, 2, NOW, False, 50.0, "x")]), before)
    after = vectors([*events(), (0, 2, NOW - 1, False, 50.0, "x")])
    assert not torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-5, atol=1e-6)  # sums in another order


# ---- labels --------------------------------------------------------------------------------------


def task_of(name, rows, kind="binary"):
    queries = pl.DataFrame(
        rows, schema={"user_id": pl.Int64, "time": pl.Int64, "part": PART_TYPE, "label": pl.Float32},
        orient="row",
    )  # fmt: skip
    return DownstreamTask(name=name, kind=kind, queries=queries, horizon=1)


def test_labels_of_several_tasks_stand_beside_the_queries():
    first = task_of("first", [(1, 5, "train", 1.0), (2, 5, "train", 0.0), (3, 9, "test", 1.0)])
    second = task_of("second", [(2, 5, "train", 1.0), (2, 6, "train", None)])
    queries = pl.DataFrame({"user_id": [2, 3, 1, 2], "time": [5, 9, 5, 6]})
    label = task_label_matrix([first, second], queries)
    wanted = [[0.0, 1.0], [None, None], [1.0, None], [None, None]]
    assert [[None if x != x else x for x in row] for row in label.tolist()] == wanted
    assert task_label_matrix([first], queries, "test").nan_to_num(-1).tolist() == [[-1], [1], [-1], [-1]]
    with pytest.raises(ValueError, match="no task to take labels of"):
        task_label_matrix([], queries)
    sets = first.queries.with_columns(label=pl.concat_list(pl.lit("a")))
    with pytest.raises(ValueError, match="task 'first' has labels of kind 'set', this needs binary ones"):
        task_label_matrix([replace(first, kind="set", queries=sets)], queries)
    with pytest.raises(ValueError, match="'second' has no test queries"):
        task_label_matrix([second], queries, "test")


def test_what_does_not_fit_together_is_refused():
    inputs, kind = toy_users(20)
    label = labels_of_kinds(kind)
    profile = toy_profile()
    with pytest.raises(ValueError, match="got 20 rows of inputs and 19 of labels"):
        fit_multi_task(profile, inputs, label[1:], fit_until=1)
    with pytest.raises(ValueError, match="got 0 rows of inputs and 0 of labels"):
        meta_train(profile, RelationModule(16), inputs.take(torch.arange(0)), label[:0], fit_until=1)
    with pytest.raises(ValueError, match=r"there is none of tasks \[1\]"):
        fit_multi_task(profile, inputs, torch.tensor([[1.0, torch.nan]]).expand(20, 2), fit_until=1)
    for wrong in (2.0, -1.0, 0.5, torch.inf):
        with pytest.raises(ValueError, match=rf"labels must be 0 or 1, or NaN .* got {wrong:g} \(1 in all\)"):
            fit_multi_task(profile, inputs, torch.tensor([wrong, *[1.0, 0.0] * 9, 1.0])[:, None], fit_until=1)
    with pytest.raises(
        ValueError, match=r"must be \(num_rows, num_tasks\), got \(20,\): give .* label\[:, None"
    ):
        fit_multi_task.__wrapped__(profile, inputs, label[:, 0], fit_until=1)
    for size in (0, 1.5, True):
        message = f"batch_size must be a whole number of at least 1, got {size}"
        with pytest.raises(ValueError, match=message):
            fit_multi_task.__wrapped__(profile, inputs, label, fit_until=1, batch_size=size)
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(embed)(profile, inputs, batch_size=size)
    alone = torch.tensor([1.0, *[0.0] * 19])[:, None]
    with pytest.raises(ValueError, match="with 1 examples of each class no task has rows of both left"):
        meta_train(
            profile, RelationModule(16), inputs, alone, fit_until=1, episodes=EpisodeConfig(num_ways=1)
        )
    frozen = toy_profile().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing learns"):
        meta_train(
            frozen, PrototypeSimilarity(), inputs, label, fit_until=1, episodes=EpisodeConfig(num_ways=4)
        )
    assert frozen.fit_until is None
    with pytest.raises(ValueError, match="6 of 6 tasks have 1 examples of each class, an episode needs 9"):
        meta_train(profile, RelationModule(16), inputs, label, fit_until=1)
    assert profile.fit_until is None
