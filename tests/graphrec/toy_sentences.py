"""Random sentences of behavioural words, from lists: what the tests of UserBERT read."""

import torch

from graphrec.encoders.sentences import BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes, WordSizes

# a different number on every axis
SIZES = SentenceSizes(
    words={
        "long": WordSizes(num_codes=(5, 9, 7), num_positions=11),
        "short": WordSizes(num_codes=(6, 4), num_positions=13),
    },
    profile=(3, 4, 5, 2),
)


def words_from_lists(queries, num_attributes):
    """``queries``: for each a list of words, (position, actions), each action a tuple of codes."""
    words = [word for query in queries for word in query]
    actions = [action for _, acts in words for action in acts]
    return BehaviorWords(
        ptr=running([len(query) for query in queries]),
        position=torch.tensor([position for position, _ in words], dtype=torch.int64),
        action_ptr=running([len(acts) for _, acts in words]),
        code=torch.tensor(actions, dtype=torch.int64).view(len(actions), num_attributes),
    )


def running(counts):
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64).cumsum(0)])


def random_sentences(counts, seed=0, sizes=SIZES, max_actions=4):
    """``counts``: for each query the number of words of each kind."""
    generator = torch.Generator().manual_seed(seed)

    def below(high):
        return int(torch.randint(high, (), generator=generator))

    words = {}
    for number, (kind, size) in enumerate(sizes.words.items()):
        queries = [
            [
                (
                    below(size.num_positions),
                    [tuple(map(below, size.num_codes)) for _ in range(1 + below(max_actions))],
                )
                for _ in range(of_query[number])
            ]
            for of_query in counts
        ]
        words[kind] = words_from_lists(queries, len(size.num_codes))
    profile = torch.tensor([[below(size) for size in sizes.profile] for _ in counts], dtype=torch.int64)
    return UserSentences(words=words, profile=profile.view(len(counts), len(sizes.profile)))
