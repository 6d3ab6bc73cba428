"""Short texts of the simulated items: made-up words, of which some tell of the item's topic."""

import numpy as np
import polars as pl
from jaxtyping import Int64

from graph_builders.datasets.simulated_world import Draw, World, generator_for
from graph_builders.datasets.simulator_config import SimulatorConfig

NUM_TOPIC_WORDS = 1_000  # shared by all topics, each of which has its own order of them
NUM_COMMON_WORDS = 200  # the same for all topics
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]
# 80 syllables have 6,400 pairs; 7 and 6,400 share no factor, so that no word comes twice
_WORDS = [
    _SYLLABLES[7 * code // 80 % 80] + _SYLLABLES[7 * code % 80]
    for code in range(NUM_TOPIC_WORDS + NUM_COMMON_WORDS)
]


def item_texts(config: SimulatorConfig, world: World) -> pl.DataFrame:
    """Make a text for each item of both domains; nothing is read but its topic, so no event is told.

    A word is, with probability ``config.text_accuracy``, one of the topic's words, else one of the common
    words. Ranks follow Zipf's law; the topic's order of the words, drawn once, says which word a rank is.
    So a word that is frequent in one topic is rare in the others, and a short text can mislead.

    Args:
        config: ``words_per_item`` of at least 1.
        world: of this configuration.

    Returns:
        ``item_id`` (Int64), rising, and ``text`` (String): words with a space between them.

    """
    random = generator_for(config, Draw.TEXTS)
    order = np.tile(np.arange(NUM_TOPIC_WORDS, dtype=np.int16), (config.num_topics, 1))
    order = random.permuted(order, axis=1)
    topic = np.concatenate([world.item_topic, world.external_topic])
    shape = (len(topic), config.words_per_item)
    tells = random.random(shape) < config.text_accuracy
    # drawn for all words, so that another accuracy changes the words that it concerns alone
    of_topic = order[topic[:, None], _zipf_ranks(random.random(shape), NUM_TOPIC_WORDS)]
    common = NUM_TOPIC_WORDS + _zipf_ranks(random.random(shape), NUM_COMMON_WORDS)
    code = np.where(tells, of_topic, common)
    words = pl.Series("text", _WORDS).gather(code.ravel()).reshape(shape)
    return pl.DataFrame({"item_id": np.arange(len(topic)), "text": words.arr.join(" ")})


def _zipf_ranks(uniform: np.ndarray, num_ranks: int) -> Int64[np.ndarray, "num_items words_per_item"]:
    """Turn uniform numbers into ranks from 0 on: the first is twice as likely as the second."""
    cumulative = np.cumsum(1.0 / np.arange(1, num_ranks + 1))
    return np.searchsorted(cumulative / cumulative[-1], uniform, side="right")
