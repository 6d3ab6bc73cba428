"""Fine-tuning: what it learns of planted labels, breaks, what may not be seen, and which queries are used."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from graphrec.encoders.sentence_batches import take_sentences
from graphrec.encoders.userbert import TokenizerFacts, UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder, read_sentences
from graphrec.evaluation import auc
from graphrec.evaluation.genre_ranking import average_precision_at_k
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.finetuning import (
    FinetuningConfig,
    finetune,
    predict,
    pretrain_on_tasks,
    training_queries,
)
from tests.graphrec.test_userbert_encoder import graph_of, prepared
from tests.graphrec.toy_tasks import TEST_START, TOY_SIZES, toy_task

LEARN = FinetuningConfig(epochs=10, batch_size=16, learning_rate=0.01)
FIELDS = ("city",)


def small_bert(sizes=TOY_SIZES, seed=0):
    torch.manual_seed(seed)
    return UserBERT(sizes, channels=16, num_blocks=1, num_heads=2, attribute_channels=8)


def binary_auc(result):
    return auc(result.queries["label"].to_numpy(), result.score[:, 0].numpy())


def set_map(result):
    truth = result.labels.take(result.row)
    return average_precision_at_k(result.score, truth.ptr, truth.code, k=3).mean()


def test_a_planted_binary_label_is_learnt_and_without_it_nothing_is():
    for planted, low, high in ((True, 0.98, 1.0), (False, 0.35, 0.65)):
        task, sentences, _ = toy_task(planted=planted)
        result = finetune(small_bert(), task, sentences, config=LEARN, fields=FIELDS)
        assert low <= binary_auc(result) <= high


def test_planted_sets_are_learnt_and_without_them_the_frequent_class_leads():
    values = {}
    for planted in (True, False):
        task, sentences, _ = toy_task("set", planted=planted)
        result = finetune(small_bert(), task, sentences, config=LEARN, fields=FIELDS)
        assert result.labels.classes == ("genre 0", "genre 1", "genre 2", "genre 3", "milk")
        torch.testing.assert_close(result.score.sum(dim=1), torch.ones(len(result.row), dtype=torch.float64))
        values[planted] = set_map(result)
    # milk is in every set; of four genres the right one stands second, third or behind
    assert values[True] > 0.95
    assert values[False] < 0.85


def test_scores_are_of_the_part_and_in_its_order():
    task, sentences, _ = toy_task()
    config = replace(LEARN, epochs=1)
    result = finetune(
        small_bert(), task, sentences, config=config, fields=FIELDS, score_part="validation", log_every=3
    )
    assert result.queries.equals(task.part("validation"))
    assert task.queries[result.row.tolist()].equals(result.queries)
    for place in (0, 17, 39):  # a score does not depend on who else is asked for
        alone = take_sentences(sentences, result.row[place : place + 1])
        torch.testing.assert_close(
            predict(result.model, alone, [result.labels])[0], result.score[place : place + 1]
        )
    assert [point.step for point in result.curve] == [3, 6, 9, 12]
    assert not result.model.training


CONFIG = FinetuningConfig(epochs=3, batch_size=16, learning_rate=0.01, decay=True)  # 13 batches an epoch


def fit(checkpoint=None, on_step=None, on_epoch=None, seed=0, callers_seed=0):
    task, sentences, _ = toy_task("set")
    bert = small_bert()
    torch.manual_seed(callers_seed)
    return finetune(
        bert,
        task,
        sentences,
        config=replace(CONFIG, random_seed=seed),
        fields=FIELDS,
        checkpoint=checkpoint,
        checkpoint_every=5,
        log_every=4,
        on_step=on_step,
        on_epoch=on_epoch,
    )


@pytest.fixture(scope="module")
def undisturbed():
    return fit()


class BreakError(Exception):
    """What stands for a Ctrl-C."""


def test_resumes_to_the_same_bits_after_breaks(tmp_path, undisturbed):
    checkpoint = tmp_path / "model.pt"

    def break_at(step):
        def on_step(done, total):
            assert total == 39
            if done == step:
                raise BreakError

        return on_step

    for step in (4, 12, 31):  # before the first checkpoint, in the first epoch, in the third
        with pytest.raises(BreakError):
            fit(checkpoint, break_at(step), on_epoch=lambda epoch, score: None)
    assert load_checkpoint(checkpoint)["step"] == 30
    scores = {}
    again = fit(checkpoint, on_epoch=lambda epoch, score: scores.update({epoch: score}))
    for name, value in undisturbed.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), value), name
    assert again.curve == undisturbed.curve
    assert torch.equal(again.score, undisturbed.score)
    assert list(scores) == [3]
    assert torch.equal(scores[3], undisturbed.score)


def test_seeds_alone_decide_and_differ(undisturbed):
    assert torch.equal(fit(callers_seed=1).score, undisturbed.score)
    assert not torch.equal(fit(seed=1).score, undisturbed.score)


def test_the_callers_generator_is_left_alone():
    task, sentences, _ = toy_task("set")
    bert = small_bert()
    expected = torch.get_rng_state()
    finetune(bert, task, sentences, config=replace(CONFIG, epochs=1), fields=FIELDS)
    assert torch.equal(torch.get_rng_state(), expected)


def test_scores_after_each_epoch(undisturbed):
    seen = []
    result = fit(on_epoch=lambda epoch, score: seen.append((epoch, score)))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert torch.equal(result.score, undisturbed.score)  # looking changes nothing
    assert torch.equal(seen[-1][1], result.score)
    assert not torch.equal(seen[0][1], result.score)


def test_only_training_labels_of_the_share_of_users_matter():
    task, sentences, _ = toy_task()
    config = replace(CONFIG, user_share=0.5, epochs=1)

    def score(task):
        return finetune(small_bert(), task, sentences, config=config, fields=FIELDS).score

    expected = score(task)
    other = 1 - pl.col("label")
    held_out = task.queries.with_columns(
        pl.when(pl.col("part") == "train").then("label").otherwise(other).alias("label")
    )
    assert torch.equal(score(replace(task, queries=held_out)), expected)
    changes = []
    for user in range(20):
        flipped = task.queries.with_columns(
            pl.when(pl.col("user_id") == user).then(other).otherwise("label").alias("label")
        )
        changes.append(not torch.equal(score(replace(task, queries=flipped)), expected))
    assert 3 <= sum(changes) <= 17


def test_what_happens_at_or_after_a_query_changes_no_score():
    start = 42 * 86_400

    def scores(graph, late):
        tokenizer, reader = prepared(graph)
        queries = pl.DataFrame(
            {
                "user_id": [0, 1, 2, 0, 1, 2, 3, 4, 5],
                "time": [29 * 86_400] * 3 + [30 * 86_400] * 3 + [start] * 3,
                "part": ["train"] * 6 + ["test"] * 3,
                "label": pl.Series([0.0, 1.0] * 3 + [float(late)] * 3, dtype=pl.Float32),
            },
            schema_overrides={"part": PART_TYPE},
        )
        task = DownstreamTask(name="toy", kind="binary", queries=queries, horizon=10)
        user, time = (torch.from_numpy(queries[name].to_numpy().copy()) for name in ("user_id", "time"))
        sentences = read_sentences(reader, tokenizer, user, time)
        torch.manual_seed(0)
        encoder = UserBERTEncoder(tokenizer, UserBERT(tokenizer.sizes, channels=16, num_blocks=1))
        config = FinetuningConfig(epochs=2, batch_size=3, learning_rate=0.01)
        result = finetune(encoder, task, sentences, config=config, fields=tokenizer.fields)
        assert encoder.bert.fit_until == 30 * 86_400 + 10
        return result.score

    expected = scores(graph_of(), 0)
    assert torch.equal(scores(graph_of(change_from=start), 1), expected)
    assert not torch.equal(scores(graph_of(change_from=start - 86_400), 0), expected)


def test_pretraining_that_saw_the_tests_labels_is_refused():
    task, sentences, _ = toy_task()
    first = task.label_start["test"]
    assert first > TEST_START
    encoder = small_bert()
    encoder.fit_until = first + 1
    with pytest.raises(ValueError, match=f"labels begin at {first}"):
        finetune(encoder, task, sentences, fields=FIELDS)
    encoder.fit_until = first
    finetune(encoder, task, sentences, config=FinetuningConfig(epochs=0), fields=FIELDS)
    assert encoder.fit_until == first  # training labels reach less far
    new = small_bert()
    finetune(new, task, sentences, config=FinetuningConfig(epochs=0), fields=FIELDS)
    assert new.fit_until == int(task.part("train")["time"].max()) + 7


def test_refuses_what_does_not_fit():
    task, sentences, _ = toy_task()
    with pytest.raises(ValueError, match="400 queries, there are 1 sentences"):
        finetune(small_bert(), task, take_sentences(sentences, torch.tensor([0])), fields=FIELDS)
    with pytest.raises(ValueError, match="1 profile fields, \\[\\] are named"):
        finetune(small_bert(), task, sentences)
    told = replace(task, forbidden_fields=("kids", "city"))
    with pytest.raises(ValueError, match=r"hold \['city'\], which tell the label"):
        finetune(small_bert(), told, sentences, fields=FIELDS)
    with pytest.raises(ValueError, match="user_share"):
        FinetuningConfig(user_share=0.0)
    no_test = replace(task, queries=task.queries.filter(pl.col("part") != "test"))
    with pytest.raises(ValueError, match="no test queries"):
        finetune(small_bert(), no_test, take_sentences(sentences, torch.arange(240)), fields=FIELDS)


def several_tasks():
    """Two tasks over the same users; the second asks some of them alone, and one at a time of its own."""
    task, sentences, topic = toy_task("set", num_users=400)
    binary = toy_task("binary", num_users=400)[0]
    assert binary.queries["time"].equals(task.queries["time"])
    some = binary.queries.filter((pl.col("user_id") % 3 == 0) | (pl.col("part") == "test"))
    return [task, replace(binary, queries=some)], sentences, topic


def test_several_tasks_are_learnt_at_once_from_training_labels_alone():
    tasks, sentences, topic = several_tasks()
    queries = training_queries(tasks)
    user = torch.from_numpy(queries["user_id"].to_numpy().copy())
    assert user.tolist() == list(range(200))
    encoder = small_bert()
    train = take_sentences(sentences, user)
    config = replace(LEARN, epochs=12)
    options = {"fit_until": TEST_START, "config": config, "fields": FIELDS}
    model = pretrain_on_tasks(encoder, tasks, train, **options)
    assert encoder.fit_until == TEST_START
    with torch.no_grad():
        genre, odd = model(take_sentences(sentences, torch.arange(200, 400)))
    assert (genre[:, :4].argmax(dim=1) == topic[200:]).float().mean() > 0.95
    assert ((odd[:, 0] > 0) == (topic[200:] % 2 == 1)).float().mean() > 0.95
    # held-out labels change nothing; a training label of the second task does
    config = replace(config, epochs=1)

    def weights(flip):
        again = small_bert()
        changed = tasks[1].queries.with_columns(
            pl.when(flip).then(1 - pl.col("label")).otherwise("label").alias("label")
        )
        pretrain_on_tasks(again, [tasks[0], replace(tasks[1], queries=changed)], train, **options)
        return torch.cat([value.flatten() for value in again.parameters()])

    options["config"] = config
    expected = weights(pl.lit(False))
    assert torch.equal(weights(pl.col("part") == "test"), expected)
    assert not torch.equal(weights(pl.col("user_id") == 3), expected)


def test_several_tasks_refuse_labels_that_reach_too_far():
    tasks, sentences, _ = several_tasks()
    train = take_sentences(sentences, torch.arange(200))
    with pytest.raises(ValueError, match="training labels of 'set' reach until 526, after fit_until=525"):
        pretrain_on_tasks(small_bert(), tasks, train, fit_until=525, fields=FIELDS)
    with pytest.raises(ValueError, match="200 training queries together, there are 400"):
        pretrain_on_tasks(small_bert(), tasks, sentences, fit_until=526, fields=FIELDS)


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path):
    task, sentences, _ = toy_task()
    path, config = tmp_path / "run.pt", replace(CONFIG, epochs=1)

    def run(task=task, sentences=sentences, config=config, bert=None):
        bert = small_bert() if bert is None else bert
        return finetune(bert, task, sentences, config=config, fields=FIELDS, checkpoint=path).score

    expected = run()
    assert torch.equal(run(bert=small_bert(seed=1)), expected)  # it is finished: nothing is trained
    flipped = task.queries.with_columns(label=1 - pl.col("label"))
    wider = UserBERT(TOY_SIZES, channels=16, num_blocks=1, num_heads=4, attribute_channels=8)
    others = toy_task(seed=5)[1]
    before = path.read_bytes()
    for message, options in {
        r"config\.learning_rate is 0\.5, the checkpoint has 0\.01\. Give this": {
            "config": replace(config, learning_rate=0.5)
        },
        r"config\.random_seed is 3, the checkpoint has 0": {"config": replace(config, random_seed=3)},
        r'task is "other", the checkpoint has "binary"': {"task": replace(task, name="other")},
        "run: labels is ": {"task": replace(task, queries=flipped)},
        "run: sentences is ": {"sentences": others},
        "num_heads is 4, the checkpoint has 2": {"bert": wider},
    }.items():
        with pytest.raises(ValueError, match=message):
            run(**options)
    assert path.read_bytes() == before
    state = load_checkpoint(path)
    save_checkpoint(path, {name: value for name, value in state.items() if name != "made_from"})
    with pytest.raises(ValueError, match="does not say what its training was made from"):
        run()
    save_checkpoint(path, {"sizes": 1})
    with pytest.raises(ValueError, match=r"not a checkpoint of a training: it holds \['sizes'\]"):
        run()


def test_the_order_of_queries_hides_no_leak():
    task, sentences, _ = toy_task()
    turned = replace(task, queries=task.queries.reverse())
    backwards = take_sentences(sentences, torch.arange(len(sentences)).flip(0))
    first = task.label_start["test"]
    for asked, read in ((task, sentences), (turned, backwards)):
        encoder = small_bert()
        encoder.fit_until = first + 1
        with pytest.raises(ValueError, match=f"labels begin at {first}"):
            finetune(encoder, asked, read, fields=FIELDS)
        new = small_bert()
        finetune(new, asked, read, config=FinetuningConfig(epochs=0), fields=FIELDS)
        assert new.fit_until == 519 + 7


def test_an_encoder_knows_its_fields_and_vocabularies_whatever_the_caller_says():
    task, sentences, _ = toy_task()

    def bert(fit_until=None):
        made_by = TokenizerFacts(fingerprint="f", fit_until=fit_until, fields=FIELDS)
        return small_bert(replace(TOY_SIZES, made_by=made_by))

    none = FinetuningConfig(epochs=0)
    finetune(bert(task.label_start["test"]), task, sentences, config=none)
    with pytest.raises(ValueError, match=r"named \['town'\], the encoder's tokenizer has \['city'\]"):
        finetune(bert(), task, sentences, config=none, fields=("town",))
    told = replace(task, forbidden_fields=("city",))
    with pytest.raises(ValueError, match=r"hold \['city'\], which tell the label"):
        finetune(bert(), told, sentences, config=none)
    with pytest.raises(ValueError, match="vocabularies were fitted on data until 2000, labels begin at"):
        finetune(bert(2000), task, sentences, config=none)


def test_sentences_of_other_sizes_are_refused_by_an_encoder_of_nodes_too():
    tokenizer, reader = prepared(graph_of())
    user, time = torch.arange(6), torch.tensor([30, 30, 30, 41, 41, 41]) * 86_400
    longest = torch.tensor([30 * 86_400] * 3 + [41 * 86_400] * 3)
    sentences = read_sentences(reader, tokenizer, user, longest)
    queries = pl.DataFrame(
        {
            "user_id": user.tolist(),
            "time": time.tolist(),
            "part": ["train"] * 3 + ["test"] * 3,
            "label": [0, 1, 1, 0, 1, 0],
        },
        schema_overrides={"part": PART_TYPE},
    )
    task = DownstreamTask(name="toy", kind="binary", queries=queries, horizon=10)
    encoder = UserBERTEncoder(tokenizer, UserBERT(tokenizer.sizes, channels=16, num_blocks=1))
    words = sentences.words["long"]
    late = replace(words, position=words.position + 1000)
    wrong = replace(sentences, words={**sentences.words, "long": late})
    with pytest.raises(ValueError, match="each position of 'long' words must lie in"):
        finetune(encoder, task, wrong)


def test_strings_name_users_too():
    task, sentences, _ = toy_task()
    named = task.queries.with_columns(pl.format("u{}", pl.col("user_id")).alias("user_id"))
    config = replace(CONFIG, epochs=1, user_share=0.5)
    result = finetune(small_bert(), replace(task, queries=named), sentences, config=config, fields=FIELDS)
    assert result.queries["user_id"][0] == f"u{task.part('test')['user_id'][0]}"
