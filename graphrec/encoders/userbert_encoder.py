"""UserBERT behind the contract of a node-feature encoder: a tokeniser in front of the model."""

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor

from graphrec.encoders.behavior_words import SentenceTokenizer
from graphrec.encoders.fit_until import Fitted
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.encoders.sentence_batches import concatenate_sentences
from graphrec.encoders.sentence_encoder import SentenceEncoder
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import UserBERT

_FAR = 100
"""A time so many times as far from 1970 as the log is in another unit: these differ by 1,000 at least."""


class UserBERTEncoder(SentenceEncoder):
    """From a node's histories to UserBERT's vector of it.

    Args:
        tokenizer: makes the sentences.
        bert: encodes them, pre-trained or new.

    Raises:
        ValueError: the two are of other vocabularies, words, zones or windows.

    """

    def __init__(self, tokenizer: SentenceTokenizer, bert: UserBERT) -> None:
        wanted, found = tokenizer.sizes, bert.sizes
        if (list(wanted.words), wanted) != (list(found.words), found):
            raise ValueError(
                f"the tokenizer makes sentences of {wanted}, the model reads those of {found}: take the "
                "tokenizer that the model was made for"
            )
        if found.made_by is not None and found.made_by.fingerprint != tokenizer.fingerprint:
            raise ValueError(
                "the tokenizer's words, edge types, names, time zone or limits are others than those that "
                "the model was made for, though as many: take its own tokenizer; load_node_encoder reads "
                "both from a file of save_encoder(path, bert, tokenizer)"
            )
        super().__init__(tokenizer, bert, out_channels=bert.out_channels)

    @property
    def bert(self) -> UserBERT:
        """The model."""
        assert isinstance(self.model, UserBERT)
        return self.model

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the vocabularies, the model, and what it keeps of those that it was made for."""
        made_by = self.bert.sizes.made_by
        return [*super().fitted_parts(), *([] if made_by is None else [made_by])]


def read_sentences(
    reader: InputReader,
    tokenizer: SentenceTokenizer,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    max_events: int = 1_000_000,
) -> UserSentences:
    """Read and tokenise the histories of many queries, at most so many events at a time.

    Args:
        reader: of the tokenizer's requests.
        tokenizer: makes the sentences.
        node: row of each query's node.
        time: of each query, in the graph's time resolution.
        max_events: as in :meth:`InputReader.read_in_chunks`.

    Raises:
        ValueError: there is no query; the query times are in another unit than the graph's; or as
            :meth:`InputReader.read_in_chunks`.

    """
    if len(time):
        _check_unit(reader, int(time.max()))
    return prepare_queries(
        reader, tokenizer.tokenize, concatenate_sentences, node, time, max_events=max_events
    )


def _check_unit(reader: InputReader, latest: int) -> None:
    """Raise if the latest query time can only be of another unit than the graph's events.

    A log that begins within a year of time 0 counts from a start of its own and says nothing.
    """
    graph, year = reader.graph, 365 * 86_400 * reader.units_per_second
    times = [graph.edges(edge_type).time for edge_type in graph.edge_types]
    times = [time for time in times if len(time)]
    if not times:
        return
    first, last = (min(int(t.min()) for t in times), max(int(t.max()) for t in times))
    if first > year and not first < latest * _FAR < last * _FAR * _FAR and latest > 0:
        raise ValueError(
            f"the latest query time is {latest}, the graph's events lie in [{first}, {last}], in units of "
            f"1/{reader.units_per_second} second: multiply or divide the query times by 1,000 or 1,000,000"
        )
