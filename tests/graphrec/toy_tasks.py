"""Downstream tasks over random sentences, with a planted signal or without: for tests of fine-tuning."""

import polars as pl
import torch

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from graphrec.encoders.sentences import FIRST, BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes, WordSizes
from samplers.tables import with_zero

NUM_TOPICS = 4
TOY_SIZES = SentenceSizes(
    words={
        "long": WordSizes(num_codes=(FIRST + 2 * NUM_TOPICS, 5), num_positions=30),
        "short": WordSizes(num_codes=(FIRST + 2 * NUM_TOPICS,), num_positions=24),
    },
    profile=(4,),
)
TEST_START = 1_000


def toy_sentences(topic, seed):
    """Sentences of no word or more, of a user's topic: two values of an attribute tell it in each kind."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high, count):
        return torch.randint(high, (count,), generator=generator)

    words = {}
    for kind, size in TOY_SIZES.words.items():
        count = draw(4, len(topic)) + (kind == "long")
        query = torch.arange(len(topic)).repeat_interleave(count)
        num_actions = draw(3, len(query)) + 1
        word = torch.arange(len(query)).repeat_interleave(num_actions)
        value = FIRST + 2 * topic[query[word]] + draw(2, len(word))
        others = [draw(high, len(word)) for high in size.num_codes[1:]]
        position, _ = (query * size.num_positions + draw(size.num_positions, len(query))).sort()
        words[kind] = BehaviorWords(
            ptr=with_zero(count.cumsum(0)),
            position=position % size.num_positions,
            action_ptr=with_zero(num_actions.cumsum(0)),
            code=torch.stack([value, *others], dim=1),
        )
    return UserSentences(words=words, profile=draw(4, len(topic))[:, None])


def toy_task(kind="binary", num_users=400, seed=0, *, planted=True):
    """A task, its sentences, and the users' topics, which the labels follow unless they are drawn anew.

    Half of the users train, one in ten validates, the others test, at later times.
    """
    generator = torch.Generator().manual_seed(seed)
    topic = torch.randint(NUM_TOPICS, (num_users,), generator=generator)
    sentences = toy_sentences(topic, seed + 1)
    told = topic if planted else topic[torch.randperm(num_users, generator=generator)]
    user = torch.arange(num_users)
    part = ["train"] * (num_users // 2) + ["validation"] * (num_users // 10)
    part += ["test"] * (num_users - len(part))
    time = [500 + number // 10 for number in range(num_users)]
    time = [t + TEST_START * (p == "test") for t, p in zip(time, part, strict=True)]
    label = (
        pl.Series("label", (told % 2).tolist(), dtype=pl.Float32)
        if kind == "binary"
        else pl.Series("label", [[f"genre {t}", "milk"] for t in told.tolist()])
    )
    queries = pl.DataFrame(
        {"user_id": user.tolist(), "time": time, "part": part}, schema_overrides={"part": PART_TYPE}
    ).with_columns(label, label_time=pl.lit(None, pl.Int64))
    task = DownstreamTask(name=kind, kind=kind, queries=queries.sort("time", "user_id"), horizon=7)
    order = torch.from_numpy(task.queries["user_id"].to_numpy().copy())
    assert torch.equal(order, user)  # sentences are the queries', row by row
    return task, sentences, topic
