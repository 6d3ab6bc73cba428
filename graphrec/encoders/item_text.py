"""Words of items: text by one simple rule, or attributes, or the item's ID, and their vocabulary.

The rule: text is brought into Unicode's NFKC form and lower case; a word is an unbroken run of letters and
digits of any script, with the marks that stand on them; everything else parts words. The first 35 words of an
item are read (LURM, section 3.4). An item of whose text no word is in the vocabulary, be there none or rare
ones alone, is described by its attributes, as words ``name=value``, and one without a known attribute by
``id=...``: a text's word has no equals sign, so these are words of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders import BehaviorGraph, CategoricalColumn, RaggedColumn
from graph_builders.behavior_graph import ITEM
from graph_builders.feature_table import Column, encode_words
from graph_builders.option_checks import check_whole_number
from samplers import EdgeType
from samplers.queries import expand_ranges
from samplers.tables import with_zero

MAX_WORDS = 35
ID_PREFIX = "id="
TEXT, ATTRIBUTES, ID = "text", "attributes", "id"
"""The columns of :func:`item_words`, what an item goes by first, second and last."""
_WORD = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*"


@dataclass(frozen=True, eq=False)
class ItemWords:
    """The known words of items: those of item i are ``code[ptr[i]:ptr[i + 1]]``, in the text's order."""

    ptr: Int64[Tensor, " num_items_and_one"]
    code: Int64[Tensor, " num_words"]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def is_known(self) -> Tensor:
        """Say which items have a known word; (num_items,) bool."""
        return self.ptr.diff() > 0

    def text_number(self) -> Int64[Tensor, " num_items"]:
        """Return a number for each item that it shares with the items of the same words in the same order."""
        count = self.ptr.diff()
        number = torch.zeros_like(count)
        for place in range(int(count.max()) if len(count) else 0):
            held = count > place
            code = torch.full_like(count, -1)
            code[held] = self.code[self.ptr[:-1][held] + place]
            pair = torch.stack([number, code], dim=1)
            number = pair.unique(dim=0, return_inverse=True)[1]
        return number

    def take(self, item: Int64[Tensor, " num_taken"]) -> "ItemWords":
        """Return the words of the given items, in their order; an item may be named several times."""
        count = self.ptr.diff()[item]
        return ItemWords(with_zero(count.cumsum(0)), self.code[expand_ranges(self.ptr[item], count)[1]])

    def to(self, device: torch.device | str) -> "ItemWords":
        """Copy to another device."""
        return ItemWords(self.ptr.to(device), self.code.to(device))


@dataclass(frozen=True, eq=False)
class WordVocabulary:
    """Which words have an embedding: code c is ``words[c]``, the most frequent first.

    Attributes:
        words: strings, each once.
        fit_until: only items with an event known before this time were looked at.

    """

    words: pl.Series
    fit_until: int

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: pl.DataFrame) -> ItemWords:
        """Turn the words of items into codes: those of an item's first column that holds a known word.

        Args:
            words: see :func:`item_words`. Unknown words are left out.

        """
        parts = [self._encode_lists(column) for column in words]
        count = torch.stack([part.ptr.diff() for part in parts])
        place = (count > 0).int().argmax(dim=0)  # the first of equal ones: 0 where no column has a known word
        every = ItemWords(with_zero(count.flatten().cumsum(0)), torch.cat([part.code for part in parts]))
        return every.take(place * words.height + torch.arange(words.height))

    def _encode_lists(self, words: pl.Series) -> ItemWords:
        """Turn lists of words into codes; unknown words are left out."""
        size = torch.from_numpy(words.list.len().fill_null(0).cast(pl.Int64).to_numpy().copy())
        flat = words.filter(words.list.len() > 0).explode()
        code = encode_words(flat, self.words).long() - 1
        known = code >= 0
        return ItemWords(with_zero(known.long().cumsum(0))[with_zero(size.cumsum(0))], code[known])

    def check_before(self, label_start: int) -> None:
        """Raise if the fit saw anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        if self.fit_until > label_start:
            raise ValueError(
                f"the words were fitted on data until {self.fit_until}, labels begin at {label_start}: fit "
                "them on what was known before"
            )

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, that ``from_state`` takes."""
        return {"words": self.words.to_list(), "fit_until": self.fit_until}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "WordVocabulary":
        """Rebuild what ``state`` returned."""
        return cls(pl.Series("word", state["words"], dtype=pl.String), state["fit_until"])


def split_words(texts: pl.Series, *, max_words: int = MAX_WORDS) -> pl.Series:
    """Return the first words of each text by the rule above: lists of strings, empty for a null.

    Raises:
        ValueError: ``max_words`` is no whole number above 0.

    """
    check_whole_number("max_words", max_words, 1)
    plain = texts.cast(pl.String).fill_null("").str.normalize("NFKC").str.to_lowercase()
    return plain.str.extract_all(_WORD).list.head(max_words)


def item_words(
    graph: BehaviorGraph,
    *,
    texts: pl.Series | None = None,
    fields: Sequence[str] = (),
    max_words: int = MAX_WORDS,
) -> pl.DataFrame:
    """Return what every item of a graph may go by; which of it it does go by, the vocabulary decides.

    Args:
        graph: whose items are described.
        texts: one for each item, or for each row; default: ``graph.texts["item"]``, none where there are
            none. A text that grows with time, such as reviews, must hold nothing from ``fit_until`` on.
        fields: attributes that describe an item without a known word of its text: categories, or lists of
            them.
        max_words: of an item's text, and of its attributes, the first ones.

    Returns:
        A row for each row of items, and lists of strings in the columns ``TEXT``, ``ATTRIBUTES`` (with
        ``fields``) and ``ID``, which is never empty but in the unseen row, the last: that has no words.

    Raises:
        ValueError: there is not one text an item, or a field does not exist or holds numbers.

    """
    ids, table = graph.ids[ITEM], graph.features[ITEM]
    texts = graph.texts.get(ITEM) if texts is None else texts
    if texts is None:
        texts = pl.repeat(None, ids.num_ids, dtype=pl.String, eager=True)
    if len(texts) not in (ids.num_ids, ids.num_rows):
        raise ValueError(f"the graph has {ids.num_ids} items, there are {len(texts)} texts: give one an item")
    columns = {TEXT: split_words(texts.head(ids.num_ids), max_words=max_words)}
    attributes = []
    for name in fields:
        if name not in table:
            raise ValueError(f"items have no field {name!r}, they have {list(table.names)}")
        attributes.append(_attribute_words(name, table[name], ids.num_ids))
    if attributes:
        every = pl.concat_list(*map(pl.lit, attributes)).list.head(max_words)
        columns[ATTRIBUTES] = pl.select(every).to_series()
    id_word = pl.format(f"{ID_PREFIX}{{}}", pl.lit(ids.id_series.cast(pl.String)))
    columns[ID] = pl.select(pl.concat_list(id_word)).to_series()
    frame = pl.DataFrame([words.alias(name) for name, words in columns.items()])
    unseen = pl.DataFrame({name: [[]] * (ids.num_rows - ids.num_ids) for name in columns}, frame.schema)
    return pl.concat([frame, unseen])


def known_items(
    graph: BehaviorGraph, fit_until: int, edge_types: Sequence[EdgeType] | None = None
) -> Int64[Tensor, " num_known"]:
    """Return the rows of items with an event that was known before a time, in rising order, on the CPU.

    Args:
        graph: the events.
        fit_until: in the graph's time resolution.
        edge_types: that count, in either direction; default: all.

    """
    if edge_types is None:
        edge_types = [relation.edge_type for relation in graph.relations]
    parts = [graph.edges(edge_type) for edge_type in edge_types]
    found = [edges.item[edges.available_time < fit_until].unique() for edges in parts]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(item.cpu() for item in found)]).unique()


def fit_word_vocabulary(
    words: pl.DataFrame,
    items: Int64[Tensor, " num_known"],
    *,
    fit_until: int,
    min_count: int = 2,
    max_size: int | None = None,
) -> WordVocabulary:
    """Take the words that enough items hold, the most frequent first, equal ones in the order of the words.

    Columns are looked at in their order, each for the items that the earlier ones gave no kept word: so an
    attribute counts where it has to stand for a text, and every item that is looked at has a word in the end.

    Args:
        words: see :func:`item_words`.
        items: rows that may be looked at: those with an event before ``fit_until``, see :func:`known_items`.
        fit_until: the earliest label window begins then or later.
        min_count: items that must hold a word. An ID is kept always: one item alone has it.
        max_size: keep the most frequent words; None for all. Items whose words are cut so may have none.

    Raises:
        ValueError: an option is below 1, or no word is left.

    """
    if min(min_count, 1 if max_size is None else max_size) < 1:
        raise ValueError(f"min_count and max_size must be at least 1, got {min_count} and {max_size}")
    left = words[items.numpy()]
    parts = list[pl.DataFrame]()
    for name in words.columns:
        held = left.select(row=pl.int_range(pl.len()), word=pl.col(name).list.unique())
        held = held.explode("word", empty_as_null=False, keep_nulls=False)
        count = held.group_by("word").agg(count=pl.len())
        parts.append(count.filter(pl.col("count") >= (1 if name == ID else min_count)))
        described = held.join(parts[-1], on="word", how="semi")["row"].unique()
        left = left.filter(~pl.int_range(pl.len()).is_in(described.implode()))
    kept = pl.concat(parts).sort("count", "word", descending=[True, False])["word"]
    if kept.is_empty():
        raise ValueError(
            f"no word is in {min_count} of the {len(items)} items with an event before fit_until={fit_until}:"
            " take a smaller min_count, or a later time"
        )
    return WordVocabulary(kept if max_size is None else kept.head(max_size), fit_until)


def _attribute_words(name: str, column: Column, num_items: int) -> pl.Series:
    """Return ``name=value`` of each item's values, lists of strings."""
    if isinstance(column, CategoricalColumn):
        code, size = column.code[:num_items], (column.code[:num_items] > 0).long()
    elif isinstance(column, RaggedColumn):
        code = column.code[: int(column.ptr[num_items])]
        # a list may hold a null, which is no word
        size = with_zero((code > 0).long().cumsum(0))[column.ptr[: num_items + 1]].diff()
    else:
        raise ValueError(f"field {name!r} of items holds numbers: cut them into categories first")
    place = code[code > 0].cpu().long() - 1
    value = column.vocabulary.gather(pl.Series(place.numpy(), dtype=pl.Int64))
    word = pl.select(pl.format("{}={}", pl.lit(name), pl.lit(value))).to_series()
    row = torch.arange(num_items).repeat_interleave(size.cpu())
    lists = pl.DataFrame({"row": row.numpy(), "word": word}).group_by("row", maintain_order=True).agg("word")
    everyone = pl.DataFrame({"row": torch.arange(num_items).numpy()})
    return everyone.join(lists, on="row", how="left", maintain_order="left")["word"].fill_null([])
