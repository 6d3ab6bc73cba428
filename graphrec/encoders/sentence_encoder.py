"""Models of behavioural words, such as UserBERT, as node-feature encoders."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.behavior_words import SentenceTokenizer
from graphrec.encoders.fit_until import Fitted, FittedUntil
from graphrec.encoders.sentences import UserSentences


class SentenceEncoder(NodeEncoder[UserSentences]):
    """A tokeniser, and a model from sentences to vectors: together they fulfil the contract.

    What ``prepare`` returns can be kept by (node, time), on another device, and concatenated.

    Args:
        tokenizer: from histories to sentences.
        model: from ``UserSentences`` to (num_queries, out_channels), such as ``UserBERT``.
        out_channels: width of the model's vectors.

    """

    def __init__(self, tokenizer: SentenceTokenizer, model: nn.Module, *, out_channels: int) -> None:
        super().__init__()
        self.tokenizer, self.model, self.out_channels = tokenizer, model, out_channels
        self.requests: Mapping[str, HistoryRequest] = tokenizer.requests
        self.fields = tokenizer.fields

    def prepare(self, inputs: EncoderInput) -> UserSentences:
        """Turn histories and profiles into sentences."""
        return self.tokenizer.tokenize(inputs)

    def forward(self, prepared: UserSentences) -> Tensor:
        """Return a vector for each sentence; (num_queries, out_channels)."""
        vectors: Tensor = self.model(prepared)
        return vectors

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the vocabularies, and the model where it knows until when it was fitted."""
        model = [self.model] if isinstance(self.model, FittedUntil) else []
        return [*self.tokenizer.fitted, *model]
