"""TextCNN and HAN over the words of a user's last items, each trained with the classifier of one task.

LURM's supervised baselines (Yang et al., 2021, sections 3.3 and 3.4): they read the last 50 behaviours.
Axis letters: Q queries, E events of each, W words of each.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from graphrec.encoders.item_text import ItemWords
from graphrec.training.adam import AdamConfig
from graphrec.training.loop import train_steps
from samplers import EventHistory, SeedLoader
from samplers.queries import expand_ranges
from samplers.tables import with_zero

PADDING = 0
MAX_EVENTS = 50


@dataclass(frozen=True, eq=False)
class LastItems:
    """The words of each query's last items, oldest first.

    Attributes:
        ptr: events of each query: ``item[ptr[i]:ptr[i + 1]]``.
        item: rows of items.
        words: of all items.

    """

    ptr: Int64[Tensor, " num_queries_and_one"]
    item: Int64[Tensor, " num_events"]
    words: ItemWords

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def padded(self, query: Int64[Tensor, " num_taken"]) -> "WordGrid":
        """Return the words of the given queries, each different item once."""
        count = self.ptr.diff()[query]
        item, place = self.item[expand_ranges(self.ptr[query], count)[1]].unique(return_inverse=True)
        words = self.words.take(item)
        grid = _padded(words.code + 1, words.ptr.diff())
        return WordGrid(grid, _padded(place + 1, count))


@dataclass(frozen=True, eq=False)
class WordGrid:
    """A batch: the words of its different items, and which items each query has; padded on the right by 0.

    Attributes:
        word: codes from 1 on.
        item: numbers of the rows of ``word``, from 1 on.

    """

    word: Int64[Tensor, "num_items num_words"]
    item: Int64[Tensor, "num_queries num_events"]

    def to(self, device: torch.device | str) -> "WordGrid":
        """Copy to another device."""
        return WordGrid(self.word.to(device), self.item.to(device))


def last_items(events: EventHistory, words: ItemWords, *, max_events: int = MAX_EVENTS) -> LastItems:
    """Keep the last events of each query, of those whose item has a known word.

    Raises:
        ValueError: ``max_events`` is below 1.

    """
    if max_events < 1:
        raise ValueError(f"max_events must be at least 1, got {max_events}")
    is_known = words.is_known[events.neighbor]
    ptr, item = with_zero(is_known.long().cumsum(0))[events.ptr], events.neighbor[is_known]
    count = ptr.diff().clamp(max=max_events)
    kept = expand_ranges(ptr[1:] - count, count)[1]
    return LastItems(with_zero(count.cumsum(0)), item[kept], words)


class TextCNN(nn.Module):
    """Convolutions over the words of all items in a row, the greatest value of each filter (Kim, EMNLP 2014).

    Args:
        num_words: of the vocabulary.
        channels: of words and of the output.
        widths: of the filters, in words; each has its share of the output's channels.

    Raises:
        ValueError: the channels cannot be shared out equally.

    """

    def __init__(self, num_words: int, *, channels: int = 128, widths: tuple[int, int] = (3, 5)) -> None:
        super().__init__()
        if channels % len(widths):
            raise ValueError(f"channels must be a multiple of {len(widths)}, the widths, got {channels}")
        self.word = nn.Embedding(num_words + 1, channels, padding_idx=PADDING)
        self.filters = nn.ModuleList(
            nn.Conv1d(channels, channels // len(widths), width, padding=width - 1) for width in widths
        )
        self.widths, self.out_channels = widths, channels

    def forward(self, grid: WordGrid) -> Float[Tensor, "num_queries channels"]:
        """Return a vector a query, 0 of one without a word."""
        empty = grid.word.new_zeros(1, grid.word.shape[1])
        flat = torch.cat([empty, grid.word])[grid.item].flatten(1)
        # words close up: padding inside the text would part items that stand beside each other
        order = (flat == PADDING).byte().argsort(dim=1, stable=True)
        length = (flat != PADDING).sum(dim=1)
        longest = max(int(length.max()) if len(length) else 0, 1)
        text = functional.pad(flat.gather(1, order), (0, 1))[:, :longest]
        x = self.word(text).transpose(1, 2)
        found = []
        for width, layer in zip(self.widths, self.filters, strict=True):
            value: Tensor = layer(x)
            # windows that hold a word of the query: how long others are must not matter
            last = torch.where(length > 0, length + width - 1, 0)
            inside = torch.arange(value.shape[2], device=value.device) < last[:, None]
            found.append(torch.relu(value.masked_fill(~inside[:, None], -torch.inf)).amax(dim=2))
        return torch.cat(found, dim=1)


class HAN(nn.Module):
    r"""Attention over the words of each item, then over the items of each user (Yang et al., NAACL 2016).

    At both levels a two-way GRU reads the row, and the parts are weighed by

    .. math:: \alpha_t = \operatorname{softmax}_t \, u^\top \tanh(W h_t + b)

    Args:
        num_words: of the vocabulary.
        channels: of words, items and the output; even.

    """

    def __init__(self, num_words: int, *, channels: int = 128) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even: each direction has half of them, got {channels}")
        self.word = nn.Embedding(num_words + 1, channels, padding_idx=PADDING)
        self.of_words, self.of_items = AttentiveGRU(channels), AttentiveGRU(channels)
        self.out_channels = channels

    def forward(self, grid: WordGrid) -> Float[Tensor, "num_queries channels"]:
        """Return a vector a query, 0 of one without an event."""
        item = self.of_words(self.word(grid.word), grid.word != PADDING)
        item = torch.cat([item.new_zeros(1, item.shape[1]), item])
        vectors: Tensor = self.of_items(item[grid.item], grid.item != PADDING)
        return vectors


class AttentiveGRU(nn.Module):
    """A two-way GRU over padded rows and the weighted mean of its states."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, channels // 2, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(channels, channels)
        self.context = nn.Linear(channels, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "num_rows length channels"], mask: Bool[Tensor, "num_rows length"]
    ) -> Float[Tensor, "num_rows channels"]:
        """Return a vector a row, 0 of a row without a part."""
        out = x.new_zeros(len(x), x.shape[-1])
        filled = mask.any(dim=1).nonzero()[:, 0]
        if not len(filled):
            return out
        packed = nn.utils.rnn.pack_padded_sequence(
            x[filled], mask[filled].sum(dim=1).cpu(), batch_first=True, enforce_sorted=False
        )
        state, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        score = self.context(torch.tanh(self.hidden(state)))[..., 0].masked_fill(~mask[filled], -torch.inf)
        return out.index_copy(0, filled, (score.softmax(dim=1)[..., None] * state).sum(dim=1))


@dataclass(frozen=True, kw_only=True)
class TextClassifierConfig(AdamConfig):
    """How a model of texts is fitted to a task: Adam 0.001, batches of 256, as LURM names them.

    Attributes:
        epochs: passes over the rows; the paper names none: choose it on a validation part.
        batch_size: rows a step.
        learning_rate: of all weights.
        random_seed: of the output layer and the batches.

    """

    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 1e-3


def fit_text_classifier(
    model: TextCNN | HAN,
    items: LastItems,
    label: Int64[Tensor, " num_queries"],
    is_test: Bool[Tensor, " num_queries"],
    *,
    config: TextClassifierConfig,
) -> Float64[Tensor, "num_tested num_classes"]:
    """Fit a model and an output layer to some queries, and return the probabilities of the others' classes.

    Args:
        model: fitted in place, on the device to train on.
        items: of all queries.
        label: class of each query, from 0 on; those with -1 have none: they are neither fitted on nor scored.
        is_test: queries that are scored, in their order.
        config: options.

    Raises:
        ValueError: there are not as many labels as queries, or no query to fit on.

    """
    train, test = ((label >= 0) & ~is_test).nonzero()[:, 0], ((label >= 0) & is_test).nonzero()[:, 0]
    if len(label) != len(items) or not len(train):
        raise ValueError(
            f"each of {len(items)} queries needs a label, and some must be fitted on: got {len(label)} "
            f"labels, {len(train)} to fit on"
        )
    device = model.word.weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.random_seed)
        output = nn.Linear(model.out_channels, int(label.max()) + 1).to(device)
    whole = nn.Sequential(model, output)
    loader = SeedLoader(
        len(train),
        batch_size=config.batch_size,
        collate=lambda index: (items.padded(train[index]), label[train[index]]),
        shuffle=True,
        random_seed=config.random_seed,
    )

    def backward(batch: tuple[WordGrid, Tensor]) -> Tensor:
        with config.precision(device):
            logit = whole(batch[0].to(device))
        loss = functional.cross_entropy(logit.float(), batch[1].to(device))
        loss.backward()
        return loss.detach()

    train_steps(
        whole,
        lambda epoch, start: loader.batches(epoch, start_batch=start),
        backward,
        num_batches=len(loader),
        config=config.optimizer(),
        device=device,
        checkpoint=None,
        checkpoint_every=1,
        log_every=len(loader),
        on_step=None,
    )
    with torch.no_grad():
        parts = [whole(items.padded(rows).to(device)).double().softmax(1).cpu() for rows in test.split(512)]
    return torch.cat([torch.zeros(0, output.out_features, dtype=torch.float64), *parts])


def _padded(value: Tensor, count: Tensor) -> Tensor:
    """Lay ragged values out in rows, 0 on the right."""
    width = max(int(count.max()) if len(count) else 0, 1)
    slot = torch.arange(width)
    mask = slot < count[:, None]
    return value.new_zeros(len(count), width).masked_scatter(mask, value)
