"""A user's life as one document, the words of all items in order: TF-IDF (scikit-learn) and Doc2Vec (gensim).

These are LURM's baselines that can read a life of any length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.item_text import ItemWords
from samplers import EventHistory

_MAX_WORDS = 10_000  # gensim drops what a document has more
_MIN_ALPHA = 1e-4  # at the end of training: gensim's


@dataclass(frozen=True, eq=False)
class UserDocuments:
    """The words of each query's events, oldest first: those of query i are ``code[ptr[i]:ptr[i + 1]]``."""

    ptr: Int64[Tensor, " num_queries_and_one"]
    code: Int64[Tensor, " num_words"]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def pieces(self, query: int) -> Iterator[list[str]]:
        """Yield a query's document in pieces that gensim reads whole; nothing for an empty one."""
        code = self.code[int(self.ptr[query]) : int(self.ptr[query + 1])]
        for piece in code.split(_MAX_WORDS) if len(code) else ():
            yield [str(one) for one in piece.tolist()]


def user_documents(events: EventHistory, words: ItemWords) -> UserDocuments:
    """Write out the words of all items that each query met; an item met twice is there twice."""
    taken = words.take(events.neighbor)
    return UserDocuments(taken.ptr[events.ptr], taken.code)


def word_counts(events: EventHistory, words: ItemWords, num_words: int) -> Any:
    """Count how often each word occurs in each query's document, without writing it out.

    Args:
        events: items that were met; on the CPU.
        words: of all items.
        num_words: of the vocabulary.

    Returns:
        scipy's CSR array of float32, (num_queries, num_words).

    """
    from scipy.sparse import csr_array

    num_queries, num_items = len(events.ptr) - 1, len(words)
    met = csr_array(
        (np.ones(len(events.neighbor), np.float32), events.neighbor.numpy(), events.ptr.numpy()),
        shape=(num_queries, num_items),
    )
    held = csr_array(
        (np.ones(len(words.code), np.float32), words.code.numpy(), words.ptr.numpy()),
        shape=(num_items, num_words),
    )
    return met @ held


class UserTfidf(FittedUntil):
    """TF-IDF of users' documents: 1 + log(count), times the word's inverse document frequency, norm 1.

    Vectors are sparse and as wide as the vocabulary: scipy's CSR arrays, which probes read.
    """

    noun = "TF-IDF"

    def __init__(self) -> None:
        super().__init__()
        self.transformer: Any = None

    def fit(self, counts: Any, *, fit_until: int) -> "UserTfidf":
        """Take document frequencies from queries at or before ``fit_until``, see :func:`word_counts`."""
        from sklearn.feature_extraction.text import TfidfTransformer

        self.transformer = TfidfTransformer(sublinear_tf=True).fit(counts)
        self.fit_until = fit_until
        return self

    def transform(self, counts: Any) -> Any:
        """Return a vector a document; that of an empty one is 0.

        Raises:
            ValueError: nothing was fitted.

        """
        if self.transformer is None:
            raise ValueError("fit document frequencies before vectors are made")
        return self.transformer.transform(counts).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Doc2VecConfig:
    """How Doc2Vec is fitted: the distributed bag of words (Le, Mikolov, ICML 2014) of gensim.

    Attributes:
        channels: of a document's vector.
        epochs: passes over the documents, in training and for a new document.
        num_negatives: sampled words a word.
        min_count: words that occur less often are left out.
        learning_rate: at the start; falls to 0.0001.
        random_seed: of every draw. One thread, so that a seed gives the same vectors.

    """

    channels: int = 128
    epochs: int = 20
    num_negatives: int = 5
    min_count: int = 2
    learning_rate: float = 0.025
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=1, epochs=1, num_negatives=1, min_count=1, random_seed=0)
        check_numbers(self, ("learning_rate",), above=_MIN_ALPHA)


class UserDoc2Vec(FittedUntil):
    """Vectors of users' documents, of the fitted and of any others.

    Args:
        config: options.

    """

    noun = "Doc2Vec"

    def __init__(self, config: Doc2VecConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Any = None

    def fit(self, documents: UserDocuments, *, fit_until: int) -> "UserDoc2Vec":
        """Fit words and documents of queries at or before ``fit_until``.

        Raises:
            ValueError: no word is in the documents often enough.

        """
        from gensim.models.doc2vec import Doc2Vec

        config = self.config
        model: Any = Doc2Vec(
            dm=0,
            vector_size=config.channels,
            epochs=config.epochs,
            negative=config.num_negatives,
            min_count=config.min_count,
            alpha=config.learning_rate,
            min_alpha=_MIN_ALPHA,
            seed=config.random_seed,
            workers=1,
        )
        corpus = _Corpus(documents)
        model.build_vocab(corpus)
        if not len(model.wv):
            raise ValueError(f"no word occurs {config.min_count} times: take a smaller min_count")
        model.train(corpus, total_examples=model.corpus_count, epochs=model.epochs)
        self.model, self.fit_until = model, fit_until
        return self

    def transform(self, documents: UserDocuments) -> Float32[Tensor, "num_documents channels"]:
        """Return a vector a document, found with the words' weights fixed; that of an empty one is 0.

        It depends on the document and the seed alone. gensim's own ``infer_vector`` starts from Python's hash
        of the text, which is another one in each process, and reads 10,000 words at most.

        Raises:
            ValueError: nothing was fitted.

        """
        if self.model is None:
            raise ValueError("fit words and documents before vectors are made")
        vectors = np.zeros((len(documents), self.config.channels), np.float32)
        for query in range(len(documents)):
            pieces = list(documents.pieces(query))
            if pieces:
                vectors[query] = self._infer(pieces)
        return torch.from_numpy(vectors)

    def _infer(self, pieces: list[list[str]]) -> np.ndarray:
        from gensim.models import doc2vec

        config, model = self.config, self.model
        model.random = np.random.RandomState(config.random_seed)  # what gensim draws from
        start = np.random.default_rng(config.random_seed).random((1, config.channels)) - 0.5
        vector, lock = (start / config.channels).astype(np.float32), np.ones(1, np.float32)
        work = np.zeros(model.layer1_size, np.float32)
        for rate in np.linspace(config.learning_rate, _MIN_ALPHA, config.epochs):
            for words in pieces:
                doc2vec.train_document_dbow(
                    model,
                    words,
                    [0],
                    float(rate),
                    work,
                    learn_words=False,
                    learn_hidden=False,
                    doctag_vectors=vector,
                    doctags_lockf=lock,
                )
        return vector[0]


class _Corpus:
    """Documents as gensim reads them, several times, piece by piece; a user's pieces share one tag."""

    def __init__(self, documents: UserDocuments) -> None:
        self.documents = documents

    def __iter__(self) -> Iterator[Any]:
        from gensim.models.doc2vec import TaggedDocument

        for query in range(len(self.documents)):
            for words in self.documents.pieces(query):
                yield TaggedDocument(words, [query])
