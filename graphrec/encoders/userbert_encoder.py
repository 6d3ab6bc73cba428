"""UserBERT behind the contract of a node-feature encoder: a tokeniser in front of the model."""

from jaxtyping import Int64
from torch import Tensor

from graphrec.encoders.behavior_words import SentenceTokenizer
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.encoders.sentence_batches import concatenate_sentences
from graphrec.encoders.sentence_encoder import SentenceEncoder
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import UserBERT


class UserBERTEncoder(SentenceEncoder):
    """From a node's histories to UserBERT's vector of it.

    Args:
        tokenizer: makes the sentences.
        bert: encodes them, pre-trained or new.

    Raises:
        ValueError: the two are of other vocabularies or windows.

    """

    def __init__(self, tokenizer: SentenceTokenizer, bert: UserBERT) -> None:
        wanted, found = tokenizer.sizes, bert.sizes
        if (list(wanted.words), wanted) != (list(found.words), found):
            raise ValueError(
                f"the tokenizer makes sentences of {wanted}, the model reads those of {found}: take the "
                "tokenizer that the model was made for"
            )
        super().__init__(tokenizer, bert, out_channels=bert.out_channels)

    @property
    def bert(self) -> UserBERT:
        """The model."""
        assert isinstance(self.model, UserBERT)
        return self.model

    def check_before(self, label_start: int) -> None:
        """Raise if a vocabulary or the pre-training may have seen anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` of either is later than ``label_start``.

        """
        self.tokenizer.check_before(label_start)
        self.bert.check_before(label_start)


def read_sentences(
    reader: InputReader,
    tokenizer: SentenceTokenizer,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    max_events: int = 1_000_000,
) -> UserSentences:
    """Read and tokenise the histories of many queries, at most so many events at a time.

    Raises:
        ValueError: there is no query, or as :meth:`InputReader.read_in_chunks`.

    """
    return prepare_queries(
        reader, tokenizer.tokenize, concatenate_sentences, node, time, max_events=max_events
    )
