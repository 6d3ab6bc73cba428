"""Baselines of user tasks that train no network: popular genres, one's own, TF-IDF, boosted trees.

A genre's score for a user by

- popularity: the share of training labels that hold it;
- the user's own frequency: in how many of the user's words it occurs;
- the same with words that lose half their weight every so many days, which validation queries choose.

On grocery baskets one's own frequency beats popularity by half: it is the one to beat.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from graphrec.encoders.behavior_words import WordKind
from graphrec.encoders.sentences import FIRST, UserSentences
from graphrec.encoders.userbert import SentenceSizes
from graphrec.models.trees import BoostedTrees, TreesConfig
from graphrec.models.user_counts import code_counts, half_life_weights, tree_features, word_ages


def popular_classes(
    code: Int64[Tensor, " num_codes"], num_rows: int, num_classes: int
) -> Float64[Tensor, " num_classes"]:
    """Return the share of the rows whose set holds each class.

    Args:
        code: classes of all rows' sets, as ``SetLabels.code``; those below 0 do not count.
        num_rows: rows with a set.
        num_classes: of the task.

    Raises:
        ValueError: there is no row.

    """
    if num_rows < 1:
        raise ValueError("popularity needs a labelled row: take the training queries")
    return torch.bincount(code[code >= 0], minlength=num_classes).double() / num_rows


def code_of_classes(classes: Sequence[str], vocabulary: Sequence[str]) -> Int64[Tensor, " num_classes"]:
    """Return the code that words have for each class of a task, -1 for one that the vocabulary lacks.

    Args:
        classes: names.
        vocabulary: values of the words' attribute, the first of which has the code ``FIRST``.

    """
    code = {name: FIRST + place for place, name in enumerate(vocabulary)}
    return torch.tensor([code.get(name, -1) for name in classes], dtype=torch.int64)


def own_frequency(
    sentences: UserSentences,
    attributes: Mapping[str, int],
    num_codes: int,
    class_code: Int64[Tensor, " num_classes"],
    popularity: Float64[Tensor, " num_classes"],
    *,
    kinds: Mapping[str, WordKind] | None = None,
    half_life: float | None = None,
    popularity_weight: float = 1e-3,
) -> Float64[Tensor, "num_queries num_classes"]:
    """Score classes by how many of the user's words hold them, plus a little of their popularity.

    Args:
        sentences: of the queries, on the CPU.
        attributes: of each kind of words, the column that holds the class.
        num_codes: of that attribute.
        class_code: see :func:`code_of_classes`.
        popularity: see :func:`popular_classes`: it orders what the user has done equally often, or never.
        kinds: the tokeniser's, needed for ages.
        half_life: days after which a word counts half; None: all words count 1.
        popularity_weight: words that a popularity of 1 is worth. Small, it only orders ties.

    Raises:
        ValueError: ``half_life`` without ``kinds``; or as :func:`~graphrec.models.user_counts.code_counts`.

    """
    weights = None
    if half_life is not None:
        if kinds is None:
            raise ValueError("half_life needs the ages of words: give kinds, the tokenizer's")
        weights = half_life_weights(word_ages(sentences, kinds), half_life)
    counts = code_counts(sentences, attributes, num_codes, weights=weights)
    own = torch.from_numpy(counts[:, class_code.clamp(min=0).numpy()].toarray())
    return torch.where(class_code >= 0, own, 0.0) + popularity_weight * popularity


def choose_half_life(
    candidates: Sequence[float | None],
    score: Callable[[float | None], Float64[Tensor, "num_queries num_classes"]],
    figure: Callable[[Float64[Tensor, "num_queries num_classes"]], float],
) -> tuple[float | None, dict[float | None, float]]:
    """Return the candidate with the highest figure, the first of equal ones, and all figures.

    Args:
        candidates: half-lives in days; None: no decay.
        score: of the validation queries, at a half-life.
        figure: of such scores, such as mAP@10; higher is better.

    Raises:
        ValueError: there is no candidate.

    """
    if not candidates:
        raise ValueError("there is no half-life to choose from")
    figures = {one: figure(score(one)) for one in candidates}
    return max(figures, key=lambda one: figures[one]), figures


class TfidfLogistic:
    """Logistic regression on TF-IDF of the codes of a user's words (scikit-learn): for binary tasks.

    A user is a document, a code of an attribute a term, its count that of the words that hold it; each
    attribute's part has norm 1.

    Args:
        attributes: one mapping for each attribute, such as genres and products: of each kind of words, the
            column that holds it.
        num_codes: of each attribute.
        strength: the inverse of the L2 penalty; to be chosen on validation.
        max_iter: of the solver.

    """

    def __init__(
        self,
        attributes: Sequence[Mapping[str, int]],
        num_codes: Sequence[int],
        *,
        strength: float = 1.0,
        max_iter: int = 1000,
    ) -> None:
        if not attributes or len(attributes) != len(num_codes):
            raise ValueError(
                f"each attribute needs its num_codes, one at least: got {len(attributes)}, {len(num_codes)}"
            )
        if not strength > 0:
            raise ValueError(f"strength must be above 0, got {strength}")
        self.attributes, self.num_codes = attributes, num_codes
        self.strength, self.max_iter = strength, max_iter
        self.transformers: list[Any] = []
        self.classifier: Any = None

    def fit(self, sentences: UserSentences, label: Any) -> "TfidfLogistic":
        """Fit terms' frequencies and the regression, and return self.

        Args:
            sentences: to fit on.
            label: 0 or 1 for each.

        Raises:
            ValueError: a label is something else, or there is not one for each sentence.

        """
        label = _binary(label, len(sentences))
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        counts = self._counts(sentences)
        self.transformers = [TfidfTransformer(sublinear_tf=True).fit(part) for part in counts]
        self.classifier = LogisticRegression(C=self.strength, max_iter=self.max_iter)
        self.classifier.fit(self._features(counts), label)
        return self

    def predict(self, sentences: UserSentences) -> Float64[np.ndarray, " num_queries"]:
        """Return probabilities of a 1.

        Raises:
            ValueError: the model has not been fitted.

        """
        if self.classifier is None:
            raise ValueError("fit the regression before it predicts")
        features = self._features(self._counts(sentences))
        probability: np.ndarray = self.classifier.predict_proba(features)[:, 1]
        return probability

    def _counts(self, sentences: UserSentences) -> list[Any]:
        return [
            code_counts(sentences, attribute, size)
            for attribute, size in zip(self.attributes, self.num_codes, strict=True)
        ]

    def _features(self, counts: list[Any]) -> Any:
        from scipy.sparse import hstack

        parts = [one.transform(part) for one, part in zip(self.transformers, counts, strict=True)]
        return hstack(parts, format="csr")


class AggregateTrees:
    """Boosted trees on aggregated features of sentences, for binary tasks.

    Args:
        sizes: of the sentences' vocabularies.
        config: of the trees; default: theirs.
        max_codes: of each attribute, the codes that are counted.

    """

    def __init__(
        self, sizes: SentenceSizes, config: TreesConfig | None = None, *, max_codes: int = 64
    ) -> None:
        self.sizes, self.max_codes = sizes, max_codes
        self.trees = BoostedTrees(TreesConfig() if config is None else config)

    def fit(self, sentences: UserSentences, label: Any) -> "AggregateTrees":
        """Fit on labelled sentences and return self.

        Args:
            sentences: to fit on.
            label: 0 or 1 for each.

        Raises:
            ValueError: a label is something else, or there is not one for each sentence.

        """
        label = _binary(label, len(sentences))
        features = tree_features(sentences, self.sizes, max_codes=self.max_codes)
        self.trees.fit(features, torch.from_numpy(label.astype(np.float32)))
        return self

    def predict(self, sentences: UserSentences) -> Float64[np.ndarray, " num_queries"]:
        """Return probabilities of a 1; raises ``ValueError`` before ``fit``."""
        return self.trees.predict(tree_features(sentences, self.sizes, max_codes=self.max_codes))


def _binary(label: Any, num_sentences: int) -> np.ndarray:
    """Return labels as they came, in an array.

    Raises:
        ValueError: one is not 0 or 1, or there is not one for each sentence.

    """
    found = np.asarray(label)
    if found.shape != (num_sentences,):
        raise ValueError(f"each sentence needs one label: {num_sentences} and {found.shape}")
    wrong = np.flatnonzero(~np.isin(found, (0, 1)))
    if len(wrong):
        raise ValueError(f"a label must be 0 or 1, got {found[wrong[0]]!r} in row {wrong[0]}")
    return found
