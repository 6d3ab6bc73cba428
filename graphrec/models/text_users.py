"""PTUM and SUMN: users' last items as texts to a vector, trained on the behaviours themselves.

LURM's self-supervised baselines (Yang et al., 2021, section 3.3). PTUM is Wu et al., Findings of EMNLP 2020.
Of SUMN (Gu et al., AAAI 2021) no text was at hand: what stands here is our reading of LURM's two sentences
about it, and its results are to be labelled so.

Axis letters: Q queries, E events, P negatives, C channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from graphrec.encoders.fit_until import FittedUntil
from graphrec.models.text_classifiers import PADDING, LastItems, WordGrid
from graphrec.nn.transformer import TransformerBlock
from samplers import keyed_integers


@dataclass(frozen=True, eq=False)
class TextTask:
    """A batch of what a model is trained on; numbers of items are those of ``grid``, 0 is padding.

    Attributes:
        grid: texts of the batch's items, and the whole rows.
        history: the events that the model reads.
        target: the later events that it is to foresee.
        masked: the place of the event that is hidden from it.
        negatives: items drawn for the hidden event, and for each later one.

    """

    grid: WordGrid
    history: Int64[Tensor, "num_queries num_events"]
    target: Int64[Tensor, "num_queries num_targets"]
    masked: Int64[Tensor, " num_queries"] | None = None
    negatives: Int64[Tensor, "num_queries num_predicted num_negatives"] | None = None

    def to(self, device: torch.device | str) -> "TextTask":
        """Copy to another device."""
        return TextTask(
            self.grid.to(device),
            self.history.to(device),
            self.target.to(device),
            None if self.masked is None else self.masked.to(device),
            None if self.negatives is None else self.negatives.to(device),
        )


class TextUserModel(FittedUntil, ABC):
    """An item is the mean of its words' embeddings, through a layer; a user is made of the last items.

    Args:
        num_words: of the vocabulary.
        channels: of words, items and users.

    Attributes:
        least_events: that a user must have to be trained on.

    """

    least_events: ClassVar[int]

    def __init__(self, num_words: int, channels: int) -> None:
        super().__init__()
        self.word = nn.Embedding(num_words + 1, channels, padding_idx=PADDING)
        self.item = nn.Linear(channels, channels)
        self.out_channels = channels

    def forward(self, grid: WordGrid) -> Float[Tensor, "num_queries channels"]:
        """Return a vector a query, 0 of one without an event."""
        return self.users(self.items(grid)[grid.item], grid.item != PADDING)

    def items(self, grid: WordGrid) -> Float[Tensor, "num_items_and_one channels"]:
        """Return a vector for each item of a batch; row 0 is padding."""
        count = (grid.word != PADDING).sum(dim=1, keepdim=True).clamp(min=1)
        item = torch.tanh(self.item(self.word(grid.word).sum(dim=1) / count))
        return torch.cat([item.new_zeros(1, item.shape[1]), item])

    @abstractmethod
    def users(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return a vector a query from its events (Q, E, C) and which of them are there (Q, E)."""

    @abstractmethod
    def draw(self, grid: WordGrid, query: Tensor, *, random_seed: int, epoch: int) -> TextTask:
        """Make what a step is trained on; draws are keyed by (random_seed, epoch, query)."""

    @abstractmethod
    def loss(self, task: TextTask) -> Tensor:
        """Return the loss of a batch."""


class PTUM(TextUserModel):
    r"""Masked and next behaviours told from others by a Transformer's user vector (Wu et al., 2020).

    The user vector u is the weighted mean of a Transformer's outputs, weights as in :class:`HAN`. The hidden
    event, and each of the next K, is told from P items of other events of the batch by
    :math:`\operatorname{softmax}(u^\top e)`; the two losses add up (the paper's :math:`\lambda = 1`). K = 2
    and P = 4 are the paper's; positions are counted from the newest event.

    Args:
        num_words: of the vocabulary.
        channels: of words, items and users.
        num_blocks: of the Transformer.
        num_heads: of each block.
        max_events: the longest row.

    """

    noun = "PTUM"
    num_next: ClassVar[int] = 2
    num_negatives: ClassVar[int] = 4
    least_events = num_next + 2

    def __init__(
        self,
        num_words: int,
        *,
        channels: int = 128,
        num_blocks: int = 2,
        num_heads: int = 4,
        max_events: int = 50,
    ) -> None:
        super().__init__(num_words, channels)
        self.position = nn.Embedding(max_events, channels)
        self.hidden = nn.Parameter(torch.randn(channels) * 0.1)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads=num_heads) for _ in range(num_blocks)
        )
        self.key, self.context = nn.Linear(channels, channels), nn.Linear(channels, 1, bias=False)

    def users(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted mean of the Transformer's outputs."""
        age = mask.sum(dim=1, keepdim=True) - 1 - torch.arange(x.shape[1], device=x.device)
        x = x + self.position(age.clamp(min=0))
        seen = mask.clone()
        seen[:, 0] = True  # a row of padding alone has no softmax; it is set to 0 below
        for block in self.blocks:
            x = block(x, seen)
        score = self.context(torch.tanh(self.key(x)))[..., 0].masked_fill(~seen, -torch.inf)
        mean = (score.softmax(dim=1)[..., None] * x).sum(dim=1)
        return mean * mask.any(dim=1, keepdim=True)

    def draw(self, grid: WordGrid, query: Tensor, *, random_seed: int, epoch: int) -> TextTask:
        """Hide one event, keep the last two back, draw negatives for the three."""
        count = (grid.item != PADDING).sum(dim=1)
        first = count - self.num_next
        place = torch.arange(grid.item.shape[1])
        target = grid.item.gather(1, first[:, None] + torch.arange(self.num_next))
        masked = keyed_integers(first, random_seed, epoch, "masked", query)
        positive = torch.cat([grid.item.gather(1, masked[:, None]), target], dim=1)
        number, slot = torch.arange(self.num_next + 1)[:, None], torch.arange(self.num_negatives)
        high = max(len(grid.word) - 1, 1)
        drawn = 1 + keyed_integers(high, random_seed, epoch, "negatives", query[:, None, None], number, slot)
        # one of the others: those from the positive on stand one further on
        drawn = (drawn + (drawn >= positive[..., None])).clamp(max=len(grid.word))
        return TextTask(grid, grid.item * (place < first[:, None]), target, masked, drawn)

    def loss(self, task: TextTask) -> Tensor:
        """Return the sum of both tasks' mean cross entropies."""
        assert task.masked is not None
        assert task.negatives is not None
        item, mask = self.items(task.grid), task.history != PADDING
        x = item[task.history]
        at = torch.arange(x.shape[1], device=x.device) == task.masked[:, None]
        user_of_masked = self.users(torch.where(at[..., None], self.hidden, x), mask)
        user = self.users(x, mask)
        hidden = task.history.gather(1, task.masked[:, None])
        candidate = torch.cat([torch.cat([hidden, task.target], dim=1)[..., None], task.negatives], dim=2)
        masked_loss = _first_of(user_of_masked, item[candidate[:, :1]])
        return masked_loss + _first_of(user, item[candidate[:, 1:]])


class SUMN(TextUserModel):
    r"""Several hops of attention over the items; the words of what comes next are foreseen. Our reading.

    LURM says that SUMN "proposes a multi-hop aggregation layer to refine user representations and uses
    behavioral consistency loss to guide the model to extract latent user factors". Ours: from a learned
    :math:`q_0`,

    .. math:: o_h = \sum_e \operatorname{softmax}_e(q_{h-1}^\top W x_e) \, x_e, \qquad
              q_h = \tanh(V [q_{h-1}, o_h] + c),

    and the user is the last q. A life is cut at a random event; the loss is the cross entropy of the later
    part's words and a softmax over the vocabulary that the earlier part's vector gives.

    Args:
        num_words: of the vocabulary.
        channels: of words, items and users.
        num_hops: how often the attention is refined.

    """

    noun = "SUMN"
    least_events = 2

    def __init__(self, num_words: int, *, channels: int = 128, num_hops: int = 3) -> None:
        super().__init__(num_words, channels)
        self.start = nn.Parameter(torch.randn(channels) * 0.1)
        self.key = nn.Linear(channels, channels, bias=False)
        self.refine = nn.Linear(2 * channels, channels)
        self.output = nn.Linear(channels, num_words)
        self.num_hops = num_hops

    def users(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the query after the last hop."""
        some = mask.any(dim=1, keepdim=True)
        score_bias = torch.where(mask | ~some, 0.0, -torch.inf)
        key, query = self.key(x), self.start.expand(len(x), -1)
        for _ in range(self.num_hops):
            weight = (torch.einsum("qc,qec->qe", query, key) + score_bias).softmax(dim=1)
            query = torch.tanh(self.refine(torch.cat([query, torch.einsum("qe,qec->qc", weight, x)], dim=1)))
        return query * some

    def draw(self, grid: WordGrid, query: Tensor, *, random_seed: int, epoch: int) -> TextTask:
        """Cut each life behind a random event, but the last."""
        count = (grid.item != PADDING).sum(dim=1)
        cut = 1 + keyed_integers(count - 1, random_seed, epoch, "cut", query)
        before = torch.arange(grid.item.shape[1]) < cut[:, None]
        return TextTask(grid, grid.item * before, grid.item * ~before)

    def loss(self, task: TextTask) -> Tensor:
        """Return the mean over queries of the cross entropy of the later words."""
        user = self.users(self.items(task.grid)[task.history], task.history != PADDING)
        words = torch.cat([task.grid.word.new_zeros(1, task.grid.word.shape[1]), task.grid.word])
        word = words[task.target].flatten(1)
        log_share = functional.pad(self.output(user).float().log_softmax(dim=1), (1, 0))  # 0 of padding
        count = (word != PADDING).sum(dim=1).clamp(min=1)
        return -(log_share.gather(1, word).sum(dim=1) / count).mean()


@torch.no_grad()
def represent_texts(
    model: TextUserModel, items: LastItems, *, batch_size: int = 512
) -> Float32[Tensor, "num_queries channels"]:
    """Return the frozen vectors of all queries, in order, on the CPU; the model is left in eval mode."""
    model.eval()
    device = model.word.weight.device
    parts = [
        model(items.padded(query).to(device)).float().cpu()
        for query in torch.arange(len(items)).split(batch_size)
    ]
    return torch.cat([torch.zeros(0, model.out_channels), *parts])


def _first_of(
    user: Float[Tensor, "num_queries channels"],
    candidate: Float[Tensor, "num_queries num_predicted num_candidates channels"],
) -> Float[Tensor, ""]:
    """Mean cross entropy of the first candidate against all."""
    logit = torch.einsum("qc,qkpc->qkp", user, candidate).float()
    return -logit.log_softmax(dim=2)[..., 0].mean()
